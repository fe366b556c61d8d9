# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of a scheduler's cache: requests that run, and what finished ones have left for prompts that begin so."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
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
    def requests(self) -> list[ScheduledRequest]:
        """Running requests, those that came first first; some may not have a row yet."""
        return [holder.request for holder in self._order if holder.request is not None]

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
        """Gives free slots to those that wait, and to each the beginning of its prompt where a row has it.

        All rows that this moves, copies or adds are moved at once: each time costs as much as the whole cache.
        """
        newcomers = []
        with self._changed:
            while waiting and len(self._order) < self.count:
                holder = Holder(waiting.take())
                newcomers.append(holder)
                self._order.append(holder)
        for holder in newcomers:
            self._prefixes.add(holder, holder.prompt)
        copies = self._settle()
        layout = self._layout(newcomers)
        if copies or layout != self._holders:
            self._arrange(layout, copies)

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

    def _settle(self) -> dict[Holder, tuple[int, int]]:
        """Finds what rows have of the prompts of new requests, unless an earlier one is about to run more of it.

        Returns:
            For each that gets a part of a row, the row and how many tokens.
        """
        copies: dict[Holder, tuple[int, int]] = {}
        unsettled = [at for at, holder in enumerate(self._order) if not holder.is_settled]
        if not unsettled:
            return copies
        rows, lengths = self._rows(), self.cache.lengths.tolist()
        # What rows will have; until then copies come from what they have.
        soon = dict.fromkeys(self._order, 0) | {holder: lengths[row] for holder, row in rows.items()}
        for at in unsettled:
            holder = self._order[at]
            source, length = self._prefixes.best(holder, rows, lengths, self.cache)
            if holder.request is None or self._prefixes.is_coming(holder, self._order[:at], soon, length):
                continue
            holder.is_settled = True
            holder.request.num_reused_tokens = length
            if source is not None:
                self._prefixes.use(source)
                copies[holder] = rows[source], length
                soon[holder] = length
        return copies

    def _layout(self, newcomers: Sequence[Holder]) -> list[Holder | None]:
        """Who shall have which row: running requests the first ones, as few as possible another one than now.

        New requests get empty rows, then further ones, then those of finished requests that were used longest ago.
        """
        size = len(self._holders)
        rows = self._rows()
        wanted = len(newcomers) - (size - len(rows))
        added = self._num_to_add(wanted)
        for _ in range(wanted - added):
            oldest = min((holder for holder in rows if holder.request is None), key=lambda holder: holder.last_used)
            self._prefixes.forget(oldest)
            del rows[oldest]
        layout: list[Holder | None] = [None] * (size + added)
        border = len(self._order) if self._can_move else len(layout)
        moving = []
        for holder, row in rows.items():
            if (holder.request is not None) == (row < border):
                layout[row] = holder
            else:
                moving.append(holder)
        front = (row for row in range(border) if layout[row] is None)
        back = (row for row in range(border, len(layout)) if layout[row] is None)
        for holder in (*moving, *newcomers):
            layout[next(back if holder.request is None else front)] = holder
        return layout

    def _arrange(self, layout: list[Holder | None], copies: Mapping[Holder, tuple[int, int]]) -> None:
        """Gives rows to holders as a layout says.

        Args:
            layout: Who has which row.
            copies: Those that do not get what they have, but so many tokens of a row.
        """
        size, rows = len(self._holders), self._rows()
        indices: list[int] = []
        cuts: dict[int, int] = {}
        empty = []
        for row, holder in enumerate(layout):
            # A further row begins as a copy of another, and is emptied.
            source = row if row < size else 0
            if holder is not None and holder in copies:
                source, cuts[row] = copies[holder]
            elif holder is not None and holder in rows:
                source = rows[holder]
            else:
                empty.append(row)
            indices.append(source)
        if indices != list(range(size)):
            self.cache.reorder(indices)
        with self._changed:
            self._holders = layout
        lengths = self.cache.lengths
        if used := [row for row in empty if lengths[row]]:
            self.cache.reset(used)
            lengths[used] = 0
        if cuts:
            lengths[list(cuts)] = list(cuts.values())
            self.cache.rewind_to(lengths)

    def _num_to_add(self, wanted: int) -> int:
        """How many of so many further rows there may be."""
        if wanted <= 0 or not self._may_grow:
            return 0
        size = len(self._holders)
        room = self.count + self._num_further(int(self.cache.lengths.max())) - size
        # Both the old rows and the new ones are there while one is copied to the other.
        available = available_memory() if self._is_on_cpu else None
        if available is not None:
            room = min(room, available // max(self.cache.nbytes // size, 1) - size)
        return max(min(wanted, room), 0)

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
