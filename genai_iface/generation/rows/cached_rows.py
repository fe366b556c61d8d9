# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Running the tokens that a model has not seen yet: ragged steps, chunks, one cache or several.

Invariant: a cache row always holds a prefix of its sequence. What the sequence has beyond it, the
token chosen last included, is *pending* and runs with the next step. Nothing else is remembered, so
appending, choosing and rewinding are changes to the sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError
from genai_iface.generation.rows.step import OBSERVED_CHUNK_SIZE, Observer, run_step
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.protocols import CacheT, KVCache, Model, SupportsCheckpoint

__all__ = ["DEFAULT_PREFILL_CHUNK_SIZE", "CachedRows", "runs_together"]

DEFAULT_PREFILL_CHUNK_SIZE = 512
"""Most tokens of a row in one step of a prompt."""

# Moving rows costs once, idle rows cost in every step: rows are dropped once a quarter of them is idle.
_IDLE_SHARE = 4

# Turns of a conversation that can be edited without running what was before them again.
_MOST_ENDS = 8


class CachedRows(Generic[CacheT]):
    """The caches of N sequences: one with N rows where the model takes ragged steps, else N with one.

    A model with circular layers gets a cache per sequence too, because such a cache cannot absorb
    the padding of a ragged step. The caches are made by the first step, or by ``open``.

    Args:
        model: Runs the steps.
        num_sequences: N, the sequences that are kept.
        capacity: Of each row; None for the most that the model allows.
        chunk_size: Most tokens of a row in one step.
        drops_idle: Whether rows that are idle may be dropped from the cache, so that they cost nothing.
            A sequence that goes on after that runs again from its beginning.
        keeps_ends: Whether a model with states keeps them at the end of what new sequences share with the last, so
            that the next ones can go back to it: for conversations.

    Attributes:
        ran: Tokens of which each row holds a beginning, from before its present sequence.
        num_rerun: Tokens that run again, because a row could not go back to where it was wanted but only further.
    """

    def __init__(
        self,
        model: Model[CacheT],
        num_sequences: int,
        capacity: int | None,
        chunk_size: int,
        *,
        drops_idle: bool = False,
        keeps_ends: bool = False,
    ) -> None:
        self.num_rerun = 0
        self.ran: Sequence[int] = ()
        self._model = model
        self._num_sequences = num_sequences
        self._capacity = capacity
        self._chunk_size = chunk_size
        can = model.capabilities
        self._drops_idle = drops_idle and Capability.REORDER in can
        self._gives_all = Capability.LOGITS_ALL in can
        self._can_chunk = Capability.CHUNKED_PREFILL in can
        self._has_checkpoints = Capability.CHECKPOINT in can
        self._keeps_ends = keeps_ends and self._has_checkpoints
        # Where the last step of each sequence began: a model with states can go back there.
        self._begins: dict[int, int] = {}
        self._is_closed = False
        self._groups: list[tuple[CacheT, list[int]]] = []

    def open(self, make: Callable[[int], CacheT] | None = None) -> Self:
        """Makes the caches, if there are none yet.

        Args:
            make: Gives a cache with so many rows; None for an empty one of the model.

        Raises:
            InvalidInputError: They were closed.
        """
        if self._is_closed:
            raise InvalidInputError("The caches are closed", remedy="Make a new call.")
        if self._groups:
            return self
        every = range(self._num_sequences)
        try:
            for members in [list(every)] if runs_together(self._model) else [[index] for index in every]:
                size = len(members)
                cache = make(size) if make else self._model.create_cache(batch_size=size, capacity=self._capacity)
                self._groups.append((cache, members))
        except BaseException:
            # What was made before the failure must not stay allocated.
            self.close()
            raise
        return self

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.open()._groups[0][0].capacity if self._capacity is None else self._capacity

    @property
    def cache(self) -> CacheT:
        """The first cache, which is the only one if there is one sequence."""
        return self.open()._groups[0][0]

    @property
    def nbytes(self) -> int:
        """Bytes that the caches hold."""
        return sum(cache.nbytes for cache, _ in self._groups)

    def run(
        self,
        sequences: Sequence[TokenSequence],
        active: Sequence[bool],
        *,
        is_interrupted: Callable[[], bool],
        on_progress: Callable[[int, int], None] | None = None,
        observe: Observer | None = None,
    ) -> bool:
        """Runs all pending tokens of the active sequences and sets their ``logits``.

        Args:
            sequences: All N sequences.
            active: Which of them; the others stay as they are.
            is_interrupted: Asked before every step but the first.
            on_progress: Told the tokens that are done and all of them, after every step of a prompt.
            observe: Told the logits of every position that runs; one token runs at a time if the model
                gives only the last logits of a step.

        Returns:
            False if it was interrupted; what has run stays in the caches.
        """
        done = 0
        self.open()
        for cache, members in self._groups:
            self._take_in(cache, members, active)
            if self._drops_idle:
                _drop_idle(cache, members, active)
        total = sum(
            len(sequences[index]) - length
            for cache, members in self._groups
            for index, length in zip(members, cache.lengths.tolist(), strict=True)
            if active[index]
        )
        for cache, members in self._groups:
            while (counts := self._step(cache, members, sequences, active, observe)) is not None:
                done += counts
                if on_progress is not None and total > len(sequences):
                    on_progress(done, total)
                if done >= total:
                    return True
                if is_interrupted():
                    return False
        return True

    def _take_in(self, cache: CacheT, members: list[int], active: Sequence[bool]) -> None:
        """Gives sequences that were dropped and go on an empty row again."""
        if len(self._groups) > 1:
            return
        missing = [index for index, is_active in enumerate(active) if is_active and index not in members]
        if missing:
            size = len(members)
            cache.reorder([*range(size), *[0] * len(missing)])
            cache.reset(range(size, size + len(missing)))
            members.extend(missing)

    def _step(
        self,
        cache: CacheT,
        members: list[int],
        sequences: Sequence[TokenSequence],
        active: Sequence[bool],
        observe: Observer | None,
    ) -> int | None:
        """Runs the next chunk of one cache and returns its tokens; None if nothing was pending."""
        # Plain lists: a decode step is a few numbers, and between two of them NumPy's code is cold.
        lengths: list[int] = cache.lengths.tolist()
        pending = [len(sequences[i]) - lengths[row] if active[i] else 0 for row, i in enumerate(members)]
        width = max(pending)
        if width <= 0:
            return None
        if self._can_chunk:
            width = min(width, self._chunk_size)
        elif width > 1 and any(lengths):
            width = 1
        if observe is not None and self._can_chunk:
            width = min(width, OBSERVED_CHUNK_SIZE)
        if observe is not None and not self._gives_all:
            width = 1
        counts = [min(count, width) for count in pending]
        self._begins.update((index, lengths[row]) for row, index in enumerate(members) if counts[row])
        run_step(
            self._model,
            cache,
            [sequences[index] for index in members],
            lengths,
            counts,
            takes_all=observe is not None and self._gives_all,
            observe=None if observe is None else lambda row, start, logits: observe(members[row], start, logits),
        )
        return sum(counts)

    def rewind(self, sequences: Sequence[TokenSequence]) -> None:
        """Shortens the caches so that each is a prefix of its sequence, with a token pending if it has any.

        A row that cannot go back so far goes back further, where its model keeps states, or is emptied, where a
        circular layer has wrapped; its tokens run again.
        """
        for cache, members in self._groups:
            lengths = cache.lengths
            wanted = lengths.copy()
            for row, index in enumerate(members):
                if sequences[index].logits is None:
                    # The last token runs again, to get its logits.
                    wanted[row] = min(lengths[row], max(len(sequences[index]) - 1, 0))
            self._shorten(cache, members, lengths, wanted)

    def num_pending(self, sequences: Sequence[TokenSequence]) -> list[int]:
        """Tokens of each sequence that its row does not hold; all of one that was dropped."""
        pending = [len(sequence) for sequence in sequences]
        for cache, members in self._groups:
            for index, length in zip(members, cache.lengths.tolist(), strict=True):
                pending[index] -= length
        return pending

    def keep_common(self, wanted: Sequence[Sequence[int] | NDArray[np.int64]]) -> int:
        """Shortens each row, all of which hold ``ran`` or its beginning, to what its new sequence shares with it.

        At least the last token of each new sequence is left to run.

        Returns:
            How many tokens need not run, over all rows.
        """
        kept, ran = 0, np.asarray(self.ran, dtype=np.int64)
        for cache, members in self._groups:
            lengths = cache.lengths
            target = lengths.copy()
            for row, index in enumerate(members):
                most = max(min(len(ran), int(lengths[row]), len(wanted[index]) - 1), 0)
                differ = np.flatnonzero(ran[:most] != wanted[index][:most])
                target[row] = differ[0] if len(differ) else most
            self._shorten(cache, members, lengths, target)
            kept += int(cache.lengths.sum())
            if self._keeps_ends and isinstance(cache, SupportsCheckpoint):
                _keep_end(cache)
        return kept

    def keep_here(self, active: Sequence[bool]) -> None:
        """Keeps the states of the active sequences where their rows end now, and no longer those that were kept before.

        Only where the model declares checkpoints; elsewhere it does nothing.
        """
        if not self._has_checkpoints:
            return
        for cache, members in self._groups:
            rows = [row for row, index in enumerate(members) if active[index]]
            if rows and isinstance(cache, SupportsCheckpoint):
                for row in rows:
                    cache.drop(row)
                cache.checkpoint(rows)

    def _shorten(
        self, cache: CacheT, members: list[int], lengths: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> None:
        """Rewinds rows; those that cannot go back so far go to the nearest length before it that is left."""
        if (wanted == lengths).all():
            return
        if not cache.can_rewind_to(wanted):
            stuck = [row for row in range(len(wanted)) if not cache.can_rewind_to(_only(lengths, row, wanted[row]))]
            for row in stuck:
                nearest = self._nearest(cache, members[row], row, lengths, int(wanted[row]))
                self.num_rerun += int(wanted[row]) - nearest
                wanted[row] = nearest
            cache.reset([row for row in stuck if not wanted[row]])
        cache.rewind_to(wanted)

    def _nearest(self, cache: CacheT, index: int, row: int, lengths: NDArray[np.int64], wanted: int) -> int:
        """The longest that a row can go back to and that is shorter than it should be."""
        known = [self._begins.get(index, 0)]
        if self._has_checkpoints and isinstance(cache, SupportsCheckpoint):
            known += cache.checkpoints(row)
        shorter = sorted((length for length in known if 0 < length < wanted), reverse=True)
        return next((length for length in shorter if cache.can_rewind_to(_only(lengths, row, length))), 0)

    def reorder(self, indices: Sequence[int]) -> None:
        """Makes row i what row ``indices[i]`` was; from now on there are as many sequences as indices.

        Only where all sequences share a cache and none was dropped.
        """
        ((cache, members),) = self._groups
        if list(indices) != members:
            cache.reorder(np.asarray(indices, dtype=np.int64))
            members[:] = range(len(indices))
            self._begins.clear()

    def close(self) -> None:
        """Frees the caches. A second call does nothing."""
        self._is_closed = True
        for cache, _ in self._groups:
            cache.close()


def runs_together(model: Model[Any]) -> bool:
    """Whether all sequences share one cache: the model takes ragged steps, and no layer wraps around."""
    can = model.capabilities
    return Capability.BATCH in can and Capability.RAGGED in can and not model.spec.cache.is_circular


def _drop_idle(cache: KVCache, members: list[int], active: Sequence[bool]) -> None:
    """Drops the rows of sequences that are not active, if enough of them are."""
    kept = [row for row, index in enumerate(members) if active[index]]
    if kept and (len(members) - len(kept)) * _IDLE_SHARE >= len(members) > len(kept):
        cache.reorder(kept)
        members[:] = [members[row] for row in kept]


def _keep_end(cache: SupportsCheckpoint) -> None:
    """Keeps the states of the only row where it ends now, and of earlier ends the last few."""
    cache.checkpoint()
    for length in cache.checkpoints(0)[:-_MOST_ENDS]:
        cache.drop(0, length)


def _only(lengths: NDArray[np.int64], row: int, length: int) -> NDArray[np.int64]:
    """The present lengths with one row changed."""
    changed = lengths.copy()
    changed[row] = length
    return changed
