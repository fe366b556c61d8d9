# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A generator over a connection: the loop is the harness's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.conformance.wire._connection import Connection, HarnessError
from genai_iface.conformance.wire._messages import need, numbers_of, tensor_of
from genai_iface.results import FinishReason

__all__ = ["WireGenerator"]

_REASONS = (None, "stop", "length", "cancelled", "time")


class WireGenerator:
    """Implements ``Generator`` for one sequence.

    Args:
        connection: With the harness.
        request: Sends a request about the model.
        fields: Of the configuration, those that are not neutral.
        capacity: Most tokens of the sequence; None for the model's context.
    """

    def __init__(
        self,
        connection: Connection,
        request: Callable[..., Mapping[str, Any]],
        fields: Mapping[str, Any],
        capacity: int | None,
    ) -> None:
        self._connection = connection
        self._state: Mapping[str, Any] = {}
        self._next: int | None = None
        reply = request("create_generator", config=dict(fields), capacity=capacity)
        # Asking for a model may have started the harness again.
        self._generation = connection.ensure()
        self._handle = need(reply, "generator", int)
        self._learn(reply)

    def _learn(self, reply: Mapping[str, Any]) -> None:
        state = need(reply, "state", dict)
        if state.get("finish_reason") not in _REASONS or not isinstance(state.get("length"), int):
            raise HarnessError(f"The harness's state of a generator is none: {state!r}")
        self._state = state

    def _call(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        # -1 is a generator that was lost with an earlier start.
        handle = self._handle if self._connection.ensure() == self._generation else -1
        reply = self._connection.call(name, generator=handle, **arguments)
        if "state" in reply:
            self._learn(reply)
        return reply

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        """What the harness said last."""
        return (self._state.get("finish_reason"),)

    def append_tokens(self, token_ids: Sequence[int] | Sequence[Sequence[int]], /) -> None:
        """Appends tokens in the harness."""
        self._call("append_tokens", token_ids=numbers_of(np.asarray(token_ids).reshape(-1), "token_ids"))

    def generate_next_token(self) -> None:
        """Takes one token."""
        token = self._call("generate_next_token").get("token")
        if token is not None and not isinstance(token, int):
            raise HarnessError(f"The harness's next token is none: {token!r}")
        self._next = token

    def is_done(self) -> bool:
        """Whether there is a reason to end."""
        return self._state.get("finish_reason") is not None

    def get_next_tokens(self) -> list[int | None]:
        """The token that came last."""
        return [self._next]

    def get_sequence(self, index: int, /) -> list[int]:
        """Asks for all tokens."""
        return [int(token) for token in need(self._call("get_sequence", index=index), "token_ids", list)]

    def token_count(self, index: int = 0, /) -> int:
        """What the harness said last."""
        return int(self._state["length"])

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        """Shortens the sequence."""
        self._call("rewind_generator", length=int(np.asarray(length).reshape(-1)[0]))

    def get_logits(self) -> NDArray[np.float32]:
        """Asks for the logits (1, V)."""
        return tensor_of(self._call("get_logits"), "logits", self._connection)

    def set_logits(self, logits: ArrayLike, /) -> None:
        """Replaces them in the harness."""
        self._call("set_logits", logits=numbers_of(logits, "logits"))

    def cancel(self) -> None:
        """Ends the sequence."""
        self._call("cancel")

    def close(self) -> None:
        """Frees it in the harness, if that still has it."""
        if self._connection.ensure() == self._generation:
            self._call("close_generator")
