# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities in the two forms of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from genai_iface.protocols import Tokenizer
from genai_iface.results import TokenLogprob

__all__ = ["chat_logprobs", "completion_logprobs"]

# JSON has no infinity; this is what others write for a token that cannot be.
_LEAST = -9999.0
_BROKEN = "\ufffd"


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat."""

    def entry(token: int, value: float) -> dict[str, Any]:
        text = _text(tokenizer, token)
        # Bytes that are no whole character are not told by any tokenizer's decoding.
        data = None if _BROKEN in text else list(text.encode())
        return {"token": text, "logprob": _finite(value), "bytes": data}

    content = [{**entry(one.token_id, one.logprob), "top_logprobs": [entry(*top) for top in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """``choices[].logprobs`` of a completion.

    Args:
        tokenizer: Text from tokens.
        tokens: The tokens.
        offset: Characters before the first of them.
    """
    texts = [_text(tokenizer, one.token_id) for one in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if math.isnan(one.logprob) else _finite(one.logprob) for one in tokens],
        "top_logprobs": [
            None if math.isnan(one.logprob) else {_text(tokenizer, token): _finite(value) for token, value in one.top}
            for one in tokens
        ],
        "text_offset": offsets,
    }


def _text(tokenizer: Tokenizer, token: int) -> str:
    # The logits of a model may have more columns than its tokenizer has tokens.
    return tokenizer.decode([token], skip_special_tokens=False) if token < tokenizer.vocab_size else ""


def _finite(value: float) -> float:
    return max(value, _LEAST) if math.isfinite(value) else _LEAST
