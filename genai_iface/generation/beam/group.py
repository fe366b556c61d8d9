# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One group of beams of one prompt: which go on, which are kept, and when that is enough.

The rules are those of Transformers: a step looks at the best ``max(2, 1 + number of stop tokens)`` times
``size`` continuations. Those among the first ``size`` that end the sequence are finished; the best that
do not end it go on. A finished sequence counts by its sum of log-probabilities divided by
``length ** length_penalty``, and the best ``size`` of them are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from genai_iface.generation.sampling.filters import keep_top_k
from genai_iface.results import FinishReason

__all__ = ["Beam", "BeamGroup", "Continuation"]

KeptT = TypeVar("KeptT")


@dataclass(frozen=True, slots=True)
class Beam:
    """A sequence that goes on.

    Attributes:
        row: Its row in the batch.
        score: Sum of the log-probabilities of its new tokens, after the processors.
    """

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class Continuation:
    """A beam and one more token.

    Attributes:
        row: The beam's row.
        token: The id of the token that is appended.
        score: The beam's score with it.
        reason: Why the sequence ends with it; None if it goes on.
    """

    row: int
    token: int
    score: float
    reason: FinishReason | None


class BeamGroup(Generic[KeptT]):
    """The beams of one group.

    Args:
        size: How many go on.
        num_stop_ids: How many tokens end a sequence.
        length_penalty: Exponent of the length.
        early_stopping: When it is enough: with ``size`` finished ones (True), when no running one is
            likely to be better (False), or when none can be ("never").
        max_new_tokens: Most new tokens of a sequence.

    Attributes:
        beams: Those that go on, best first.
        finished: What ``keep`` gave, best first.
        is_done: Whether it is enough.
    """

    def __init__(
        self,
        size: int,
        *,
        num_stop_ids: int,
        length_penalty: float,
        early_stopping: bool | Literal["never"],
        max_new_tokens: int,
    ) -> None:
        self._size = size
        self._width = max(2, 1 + num_stop_ids) * size
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        self._max_new_tokens = max_new_tokens
        self.beams: list[Beam] = []
        self.finished: list[KeptT] = []
        self._scores: list[float] = []
        self.is_done = False

    def advance(
        self,
        log_probs: NDArray[np.float64],
        num_new: int,
        *,
        ends: Callable[[int, int], FinishReason | None],
        keep: Callable[[Continuation], KeptT],
    ) -> list[Continuation]:
        """Takes one step.

        Args:
            log_probs: (len(beams), V), of the next token of each beam.
            num_new: New tokens of each sequence, the next one included.
            ends: Says whether a row ends with a token.
            keep: Gives what is kept of a sequence that is finished.

        Returns:
            What goes on, best first; empty if the group is done.
        """
        best = self._best(log_probs, ends)
        for continuation in best[: self._size]:
            if continuation.reason is not None:
                self.finish(self.normalized(continuation.score, num_new), keep(continuation))
        going = [one for one in best if one.reason is None][: self._size]
        self.is_done = not going or self._is_enough(going[0].score, num_new)
        return [] if self.is_done else going

    def finish(self, score: float, kept: KeptT) -> None:
        """Keeps a sequence that has ended if it is among the best; ``score`` is normalized."""
        # Among equals the one that ended first stays in front.
        at = next((at for at, other in enumerate(self._scores) if score > other), len(self._scores))
        self._scores.insert(at, score)
        self.finished.insert(at, kept)
        del self._scores[self._size :], self.finished[self._size :]

    def normalized(self, score: float, length: int) -> float:
        """A score that sequences of different lengths can be compared by."""
        return float(score / length**self._length_penalty)

    def _best(
        self, log_probs: NDArray[np.float64], ends: Callable[[int, int], FinishReason | None]
    ) -> Sequence[Continuation]:
        vocab_size = log_probs.shape[1]
        scores = (log_probs + np.array([[beam.score] for beam in self.beams])).ravel()
        kept = keep_top_k(scores, self._width)
        # Stable: among equals the better beam and the lower token id come first.
        chosen = kept[np.argsort(-scores[kept], kind="stable")][: self._width]
        continuations = []
        for flat in chosen.tolist():
            if scores[flat] == -np.inf:
                # What the processors have ruled out goes nowhere.
                break
            beam, token = divmod(flat, vocab_size)
            row = self.beams[beam].row
            continuations.append(Continuation(row, token, float(scores[flat]), ends(row, token)))
        return continuations

    def _is_enough(self, best: float, num_new: int) -> bool:
        if len(self.finished) < self._size:
            return False
        if self._early_stopping is True:
            return True
        length = num_new
        if self._early_stopping == "never" and self._length_penalty > 0:
            length = self._max_new_tokens
        return self.normalized(best, length) <= self._scores[-1]
