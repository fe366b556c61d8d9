# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One sequence in the runtime's loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime_genai
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import check_new_tokens, check_rewind, stop_ids
from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.results import FinishReason
from genai_iface_ort_genai.model import LoadedModel

__all__ = ["OrtGenAIGenerator"]


class OrtGenAIGenerator:
    """Implements ``Generator`` for one sequence.

    Args:
        model: Loaded.
        options: The runtime's search options.
        config: Which tokens end the sequence.
    """

    def __init__(self, model: LoadedModel, options: dict[str, Any], config: GenerationConfig) -> None:
        parameters = onnxruntime_genai.GeneratorParams(model.handle)
        parameters.set_search_options(**options)
        self._inner = onnxruntime_genai.Generator(model.handle, parameters)
        self._vocab_size = model.vocab_size
        self._capacity: int = options["max_length"]
        self._stops = stop_ids(config, model.eos_token_ids)
        self._reason: FinishReason | None = None
        self._tokens: list[int] = []
        self._next: int | None = None

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        """Why the sequence ended; None while it goes on."""
        return (self._reason,)

    def append_tokens(self, token_ids: Sequence[int] | Sequence[Sequence[int]], /) -> None:
        """Runs the model over input tokens."""
        held, size = len(self._tokens), self._vocab_size
        tokens = check_new_tokens(token_ids, held=held, vocab_size=size, capacity=self._capacity)
        self._reason = None
        if tokens:
            self._inner.append_tokens(np.array([tokens], np.int32))
            self._tokens += tokens
        self._end_if_full()

    def generate_next_token(self) -> None:
        """Takes the runtime's next token."""
        if not self._tokens or self._reason is not None:
            raise InvalidInputError(
                "There is nothing to go on from: no token was appended, or the sequence is done",
                remedy="Append tokens first.",
            )
        self._inner.generate_next_token()
        self._next = int(self._inner.get_next_tokens()[0])
        self._tokens.append(self._next)
        if self._next in self._stops:
            self._reason = "stop"
        else:
            self._end_if_full()
        if self._reason is None and self._inner.is_done():
            # It ended at a token of its own (pad_token_id, where the folder names no end): the token again as input.
            self._inner.rewind_to(len(self._tokens) - 1)
            self._inner.append_tokens(np.array([[self._next]], np.int32))

    def is_done(self) -> bool:
        """Whether the sequence has ended."""
        return self._reason is not None

    def get_next_tokens(self) -> list[int | None]:
        """The token that came last."""
        return [self._next]

    def get_sequence(self, index: int, /) -> list[int]:
        """All tokens."""
        if index != 0:
            raise InvalidInputError(f"There is no sequence {index}", remedy="A runtime's generator has one: 0.")
        return list(self._tokens)

    def token_count(self, index: int = 0, /) -> int:
        """The number of tokens."""
        return len(self.get_sequence(index))

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        """Forgets tokens; the last one that stays runs once more, for its logits."""
        wanted = check_rewind(length, held=len(self._tokens))
        self._reason = None
        self._tokens = self._tokens[:wanted]
        self._inner.rewind_to(max(0, wanted - 1))
        if wanted:
            self._inner.append_tokens(np.array([self._tokens[-1:]], np.int32))

    def get_logits(self) -> NDArray[np.float32]:
        """The logits (1, V) from which the next token will be chosen."""
        return np.array(self._inner.get_logits(), np.float32).reshape(1, -1)

    def set_logits(self, logits: ArrayLike, /) -> None:
        """Replaces them for the next choice."""
        self._inner.set_logits(np.asarray(logits, np.float32).reshape(1, 1, -1))

    def cancel(self) -> None:
        """Ends the sequence; a prefill that runs is not interrupted, the runtime has no way to."""
        self._reason = "cancelled"

    def _end_if_full(self) -> None:
        if len(self._tokens) >= self._capacity:
            self._reason = "length"
