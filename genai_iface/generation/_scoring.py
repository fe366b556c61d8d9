# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How likely given tokens are: scores of continuations, perplexity of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import CacheOverflowError, InvalidInputError
from genai_iface.generation._request import context_of
from genai_iface.generation._token_ids import as_ids
from genai_iface.generation.rows.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.generation.sampling.sampler import log_probability
from genai_iface.protocols import Model, Tokenizer
from genai_iface.results import Score, TokenLogprob

__all__ = ["as_score", "perplexity", "score_tokens", "split_continuation"]


def score_tokens(
    model: Model[Any],
    tokens: Sequence[int],
    start: int,
    *,
    num_top: int = 0,
    chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
) -> list[TokenLogprob]:
    """The log-probabilities of ``tokens[start:]``, each given all tokens before it.

    Args:
        model: The model that computes the logits.
        tokens: (T,) token ids.
        start: The first one that is scored, at least 1.
        num_top: Alternatives to report for each.
        chunk_size: Most tokens in one step.

    Raises:
        InvalidInputError: Nothing stands before the first token, or an id is out of range.
        CacheOverflowError: There are more tokens than the model's context.
    """
    if not 1 <= start <= len(tokens):
        raise InvalidInputError(
            f"Token {start} of {len(tokens)} cannot be scored: nothing stands before it",
            remedy="Give a prompt of at least one token.",
        )
    context = context_of(model.spec)
    if context is not None and len(tokens) > context:
        raise CacheOverflowError(0, len(tokens), context, is_prompt=True)
    found: list[TokenLogprob] = []

    def observe(index: int, first: int, logits: NDArray[np.float32]) -> None:
        for position, row in enumerate(logits, start=first + 1):
            if start <= position < len(tokens):
                found.append(log_probability(row, int(tokens[position]), num_top))

    sequence = TokenSequence()
    # The last token is only predicted; it need not run.
    sequence.append_input(as_ids(list(tokens), model.spec.vocab_size)[:-1])
    rows = CachedRows(model, 1, len(tokens), chunk_size)
    try:
        rows.run([sequence], [True], is_interrupted=lambda: False, observe=observe)
    finally:
        rows.close()
    return found


def perplexity(
    model: Model[Any],
    tokens: Sequence[int],
    *,
    window: int | None,
    stride: int | None,
    chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
) -> float:
    """The exponential of the mean negative log-probability of all tokens but the first.

    Args:
        model: The model that computes the logits.
        tokens: (T,) token ids, at least two.
        window: Most tokens that are seen at once; None for all.
        stride: How many tokens further each window begins; None for half a window.
        chunk_size: Most tokens in one step.

    Raises:
        InvalidInputError: There are fewer than two tokens, or window or stride are not legal.
    """
    if len(tokens) < 2:
        raise InvalidInputError(f"A text of {len(tokens)} tokens has no perplexity", remedy="Pass a longer text.")
    size = len(tokens) if window is None else min(window, len(tokens))
    step = max(1, size // 2) if stride is None else stride
    if size < 2 or not 1 <= step < max(size, 2):
        raise InvalidInputError(
            f"window={window} with stride={stride} is not legal",
            remedy="The window has at least two tokens, the stride at least one and fewer than the window.",
        )
    total, done, begin = 0.0, 1, 0
    while done < len(tokens):
        end = min(begin + size, len(tokens))
        entries = score_tokens(model, tokens[begin:end], done - begin, chunk_size=chunk_size)
        total += math.fsum(entry.logprob for entry in entries)
        done, begin = end, begin + step
    return math.exp(-total / (len(tokens) - 1))


def split_continuation(tokenizer: Tokenizer, prompt: str, continuation: str) -> tuple[list[int], int]:
    """Tokens of prompt and continuation in one text, and where the continuation begins.

    A token that reaches over the border belongs to the continuation.
    """
    whole = tokenizer.encode(prompt + continuation)
    alone = tokenizer.encode(prompt)
    start = next((at for at, pair in enumerate(zip(whole, alone, strict=False)) if pair[0] != pair[1]), None)
    return whole, min(len(whole), len(alone)) if start is None else start


def as_score(entries: Sequence[TokenLogprob]) -> Score:
    """The sum and its parts."""
    return Score(
        token_ids=[entry.token_id for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        logprob=math.fsum(entry.logprob for entry in entries),
        is_greedy=all(entry.top[0][0] == entry.token_id for entry in entries),
    )
