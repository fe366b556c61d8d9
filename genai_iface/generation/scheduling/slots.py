# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of a scheduler's cache: requests that run, and what finished ones have left for prompts that begin so."""

from __future__ import annotations

import threading
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import BackendError
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.generation.scheduling.prefixes import Holder, Prefixes
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.generation.scheduling.waiting import WaitingRequests
from genai_iface.memory import available_memory
from genai_iface.protocols import KVCache, Model

__all__ = ["Slots"]


class Slots:
    """Rows of one cache. Changed by the thread that runs the steps; readers hold ``changed``.

    Rows of running requests come first, then those that are kept, then empty ones: idle rows at the end cost nothing.

    Args:
        model: Makes the cache.
        count: Requests that run at once.
        capacity: Tokens of each; None for the most that the model allows.
        changed: Held while it is changed who has which slot.
        prefix_bytes: Most bytes of what finished requests keep; 0 for nothing.
        memory_limit: Most bytes of the whole cache; None for what there is.

    Attributes:
        cache: The cache whose rows they are.
    """

    def __init__(
        self,
        model: Model[Any],
        count: int,
        capacity: int | None,
        changed: threading.Condition,
        *,
        prefix_bytes: int = 0,
        memory_limit: int | None = None,
    ) -> None:
        self.count = count
        self.cache: KVCache = model.create_cache(batch_size=count, capacity=capacity)
        self._changed = changed
        self._can_move = Capability.REORDER in model.capabilities
        self._is_on_cpu = model.device.kind == "cpu"
        # Where all memory is taken at once there are no further rows: who does not run keeps a slot that is free.
        self._may_grow = Capability.GROWTH in model.capabilities
        self._memory_limit = memory_limit
        self._prefixes = Prefixes(model, prefix_bytes)
        self._holders: list[Holder | None] = [None] * count
        # Running ones in the order in which they came.
        self._order: list[Holder] = []
        self._nobody = TokenSequence()

    def __len__(self) -> int:
        """Slots that are taken."""
        return len(self._order)

    @property
    def num_kept(self) -> int:
        """Rows that finished requests keep."""
        return sum(holder is not None and holder.request is None for holder in self._holders)

    @property
    def taken(self) -> list[tuple[int, ScheduledRequest]]:
        """The rows of running requests and these, those that came first first."""
        rows = self._rows()
        return [(rows[holder], holder.request) for holder in self._order if holder.request is not None]

    @property
    def ready(self) -> list[tuple[int, ScheduledRequest]]:
        """As ``taken``, without those that wait for another one to run the beginning of their prompt."""
        rows = self._rows()
        return [
            (rows[holder], holder.request) for holder in self._order if holder.request is not None and holder.is_settled
        ]

    @property
    def states(self) -> list[TokenSequence]:
        """The sequence of each row, an empty one where none runs."""
        return [
            self._nobody if holder is None or holder.request is None else holder.request.sequence
            for holder in self._holders
        ]

    # Before a step

    def admit(self, waiting: WaitingRequests) -> None:
        """Gives free slots to those that wait, and to each the beginning of its prompt where a row has it."""
        while waiting and len(self._order) < self.count:
            with self._changed:
                request = waiting.take()
                holder = Holder(request)
                self._order.append(holder)
            self._prefixes.add(holder, request.request.prompts[0])
            rows, lengths = self._rows(), self.cache.lengths.tolist()
            source, length = self._prefixes.best(holder, rows, lengths, self.cache)
            row = self._row_for(source, length)
            with self._changed:
                self._holders[row] = holder
        self._settle_all()

    def close_gaps(self) -> None:
        """Moves running rows into idle ones before them: an idle row between others costs as if it ran."""
        rows = self._rows()
        running = sorted(rows[holder] for holder in self._order)
        gaps = [row for row in range(len(running)) if row not in running]
        if not gaps or not self._can_move:
            return
        indices = list(range(len(self._holders)))
        for gap, last in zip(gaps, reversed(running), strict=False):
            indices[gap], indices[last] = last, gap
        self._reorder(indices)

    def limit(self, row: int, count: int) -> int:
        """How many of ``count`` tokens a row may run in this step."""
        holder = self._holders[row]
        return count if holder is None else self._prefixes.limit(holder, int(self.cache.lengths[row]), count)

    def make_room(self, counts: list[int]) -> list[int]:
        """Drops what the budget does not allow once a step has run.

        Args:
            counts: Tokens that each row is to run.

        Returns:
            The same for the rows that are left; the first of them are where they were.
        """
        lengths = self.cache.lengths.tolist()
        longest = max(length + count for length, count in zip(lengths, counts, strict=True))
        most = self._num_allowed(longest)
        while self.num_kept > most:
            self._drop(self._oldest())
        surplus = len(self._holders) - self.count - max(self._num_further(longest), 0)
        empty = [row for row, holder in enumerate(self._holders) if holder is None and row >= len(self._order)]
        if surplus > 0 and empty:
            gone = set(empty[-surplus:])
            keep = [row for row in range(len(self._holders)) if row not in gone]
            self._reorder(keep)
            return [counts[row] for row in keep]
        return counts

    # After a step

    def note_progress(self) -> None:
        """Keeps states where somebody may want to go on from them."""
        rows = self._rows()
        self._prefixes.checkpoint(rows, self.cache.lengths.tolist(), self.cache)

    def free(self, row: int) -> None:
        """Ends the use of a row. What it holds is kept for prompts that begin so, where that is allowed."""
        holder = self._holders[row]
        if holder is None or holder.request is None:
            return
        length = int(self.cache.lengths[row])
        tokens = holder.request.sequence.tokens[:length].tolist()
        is_kept = self._prefixes.is_on and length > 0 and holder.is_settled
        with self._changed:
            holder.request = None
            self._order.remove(holder)
            if not is_kept:
                self._holders[row] = None
        if not is_kept:
            self._prefixes.forget(holder)
            self.cache.reset([row])
            return
        self._prefixes.add(holder, tokens)
        for spare in self._prefixes.spares(holder, tokens, self._rows()):
            self._drop(spare)
        while self.num_kept > self._num_allowed(int(self.cache.lengths.max())):
            self._drop(self._oldest())

    def fail(self, error: BaseException) -> None:
        """Ends the requests of all slots, because their step failed; nothing is kept."""
        for _, request in self.taken:
            reason = BackendError(
                f"The step in which this request ran failed: {type(error).__name__}: {error}",
                remedy="Submit it again; if it fails again, alone too, the model or its runtime is at fault.",
            )
            reason.__cause__ = error
            request.fail(reason, self._changed, self.cache.nbytes)
        for holder in self._rows():
            self._prefixes.forget(holder)
        self.abandon()
        self.cache.reset()

    def abandon(self) -> None:
        """Forgets all requests; the cache is not touched."""
        with self._changed:
            self._holders = [None] * len(self._holders)
            self._order.clear()

    # Parts

    def _rows(self) -> dict[Holder, int]:
        return {holder: row for row, holder in enumerate(self._holders) if holder is not None}

    def _settle_all(self) -> None:
        """Gives new requests what rows have of their prompts, unless an earlier one is about to run more of it."""
        for at, holder in enumerate(self._order):
            if holder.is_settled or holder.request is None:
                continue
            rows, lengths = self._rows(), self.cache.lengths.tolist()
            have = lengths[rows[holder]]
            source, length = self._prefixes.best(holder, rows, lengths, self.cache)
            by_holder = {other: lengths[row] for other, row in rows.items()}
            if self._prefixes.is_coming(holder, self._order[:at], by_holder, max(have, length)):
                continue
            holder.is_settled = True
            if source is not None and length > have:
                self._copy(rows[source], rows[holder], length)
                self._prefixes.use(source)
            holder.request.num_reused_tokens = max(have, length)

    def _copy(self, source: int, target: int, length: int) -> None:
        indices = list(range(len(self._holders)))
        indices[target] = source
        self.cache.reorder(indices)
        self._cut(target, length)

    def _cut(self, row: int, length: int) -> None:
        lengths = self.cache.lengths
        lengths[row] = length
        self.cache.rewind_to(lengths)

    def _row_for(self, source: Holder | None, length: int) -> int:
        """A row for a new request: an empty one, a new one, or that of a finished request that was used longest ago.

        Args:
            source: Has ``length`` tokens of its prompt; its own row is taken only if there is no other, with these.
            length: Tokens.
        """
        if source is not None:
            self._prefixes.use(source)
        for row, holder in enumerate(self._holders):
            if holder is None:
                return row
        if self._may_add_rows():
            size = len(self._holders)
            # A further row begins as a copy of another, and is emptied.
            self.cache.reorder([*range(size), 0])
            self.cache.reset([size])
            self._holders.append(None)
            return size
        oldest = self._oldest()
        row = self._rows()[oldest]
        if oldest is source:
            self._prefixes.forget(oldest)
            self._cut(row, length)
        else:
            self._drop(oldest)
        return row

    def _may_add_rows(self) -> bool:
        longest = int(self.cache.lengths.max())
        if not self._may_grow or len(self._holders) - self.count >= self._num_further(longest):
            return False
        # Both the old rows and the new ones are there while one is copied to the other.
        needed = self.cache.nbytes // len(self._holders) * (len(self._holders) + 1)
        available = available_memory() if self._is_on_cpu else None
        return available is None or needed <= available

    def _num_allowed(self, longest: int) -> int:
        return self._prefixes.num_kept(longest, self.cache)

    def _num_further(self, longest: int) -> int:
        """Rows beyond the slots that may be there: as many as may be kept, within the limit of the whole cache."""
        allowed = min(self._num_allowed(longest), 2 * self.count)
        if self._memory_limit is None:
            return allowed
        row = max(self.cache.nbytes // len(self._holders), longest * self.cache.bytes_per_token, 1)
        return min(allowed, self._memory_limit // row - self.count)

    def _oldest(self) -> Holder:
        kept = [holder for holder in self._holders if holder is not None and holder.request is None]
        return min(kept, key=lambda holder: holder.last_used)

    def _drop(self, holder: Holder) -> None:
        """Empties the row of a finished request."""
        row = self._rows()[holder]
        self._prefixes.forget(holder)
        with self._changed:
            self._holders[row] = None
        self.cache.reset([row])

    def _reorder(self, indices: list[int]) -> None:
        """Row i becomes what row ``indices[i]`` was."""
        self.cache.reorder(indices)
        with self._changed:
            self._holders = [self._holders[row] for row in indices]
