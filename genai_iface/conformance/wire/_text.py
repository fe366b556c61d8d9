# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Completions over a connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance.text import Completion
from genai_iface.conformance.wire._connection import HarnessError
from genai_iface.conformance.wire._messages import need, plain
from genai_iface.conformance.wire._target import WireModel
from genai_iface.results import Chunk, TokenLogprob

__all__ = ["WireText"]


class WireText:
    """Implements ``TextTarget``.

    Args:
        model: Loaded in the harness.
        takes_token_ids: Whether prompts may be token ids, as its hello said.
    """

    def __init__(self, model: WireModel, *, takes_token_ids: bool) -> None:
        self._model, self._takes_token_ids = model, takes_token_ids

    def complete(self, prompt: str | Sequence[int], fields: Mapping[str, Any], /) -> Completion:
        """One sequence of the harness."""
        if not isinstance(prompt, str) and not self._takes_token_ids:
            raise NotApplicable("the harness takes no token ids")
        asked = prompt if isinstance(prompt, str) else list(prompt)
        config = {name: plain(value) for name, value in fields.items()}
        reply = self._model.call("generate", prompt=asked, config=config)
        try:
            tokens, entries = reply.get("token_ids"), reply.get("logprobs")
            return Completion(
                text=need(reply, "text", str),
                finish_reason=need(reply, "finish_reason", str),
                token_ids=None if tokens is None else tuple(int(token) for token in tokens),
                logprobs=None if entries is None else tuple(_logprob(entry) for entry in entries),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HarnessError(f"The harness's completion cannot be read: {error!r}") from error

    def stream(self, prompt: str, fields: Mapping[str, Any], /) -> Iterator[Chunk]:
        """The protocol has no streams."""
        raise NotApplicable("the wire protocol has no streams")

    def close(self) -> None:
        """Does nothing: the harness keeps the model for the next check."""


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple((int(token), float(value)) for token, value in entry.get("top", ()))
    return TokenLogprob(int(entry["token_id"]), float(entry["logprob"]), top)
