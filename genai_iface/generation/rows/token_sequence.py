# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The state of one sequence: its tokens, which of them are new, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genai_iface.results import FinishReason, TokenLogprob

__all__ = ["TokenSequence"]


class TokenSequence:
    """The tokens of one sequence.

    Attributes:
        logits: (V,) that follow the last token, or None while the model has not seen all tokens.
        finish_reason: Why the sequence ended, None while it goes on.
        logprobs: Of the new tokens, if they are kept.
        prompt_logprobs: Of the first tokens of the prompt, as far as they are known.
    """

    def __init__(self) -> None:
        self.logits: NDArray[np.float32] | None = None
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self._buffer = np.empty(64, dtype=np.int64)
        self._length = 0
        # (start, end) of each run of tokens that was appended and not generated.
        self._inputs: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> NDArray[np.int64]:
        """(T,) a view that the next change invalidates."""
        return self._buffer[: self._length]

    @property
    def num_prompt(self) -> int:
        """Tokens that were appended before any was generated."""
        return self._inputs[0][1] if self._inputs else 0

    @property
    def num_input(self) -> int:
        """Tokens before the first one that was generated in this turn."""
        return self._inputs[-1][1] if self._inputs else 0

    @property
    def num_new(self) -> int:
        """Tokens that were generated since tokens were last appended."""
        return self._length - self.num_input

    @property
    def new_tokens(self) -> NDArray[np.int64]:
        """(num_new,) a view of these tokens."""
        return self._buffer[self.num_input : self._length]

    def append_input(self, token_ids: Sequence[int] | NDArray[np.int64]) -> None:
        """Appends tokens of the prompt or of a user's turn; the generated ones count from here."""
        self._inputs.append((self._length, self._length + len(token_ids)))
        self._extend(token_ids)
        self.logprobs.clear()

    def append_new(self, token: int) -> None:
        """Appends a generated token."""
        self._extend((token,))

    def append_drafts(self, token_ids: Sequence[int]) -> None:
        """Appends tokens that ``take_drafts`` takes off again."""
        if token_ids:
            self._extend(token_ids)

    def take_drafts(self, length: int, logits: NDArray[np.float32] | None) -> None:
        """Takes off the drafts from ``length`` on; ``logits`` (V,) follow the last token that is left."""
        self._length = length
        self.logits = logits

    def copy(self) -> TokenSequence:
        """The same tokens and log-probabilities; changing one does not change the other."""
        twin = TokenSequence()
        twin._buffer, twin._length = self._buffer.copy(), self._length
        twin._inputs = list(self._inputs)
        twin.logits, twin.finish_reason = self.logits, self.finish_reason
        twin.logprobs, twin.prompt_logprobs = list(self.logprobs), list(self.prompt_logprobs)
        return twin

    def truncate(self, length: int) -> None:
        """Forgets all tokens from ``length`` on, as if they had never been there."""
        self._length = length
        self._inputs = [(start, min(end, length)) for start, end in self._inputs if start < length]
        self.logits = None
        self.finish_reason = None
        del self.logprobs[self.num_new :]
        del self.prompt_logprobs[length:]

    def _extend(self, token_ids: Sequence[int] | NDArray[np.int64]) -> None:
        needed = self._length + len(token_ids)
        if needed > len(self._buffer):
            grown = np.empty(max(needed, 2 * len(self._buffer)), dtype=np.int64)
            grown[: self._length] = self.tokens
            self._buffer = grown
        self._buffer[self._length : needed] = token_ids
        self._length = needed
        self.logits = None
