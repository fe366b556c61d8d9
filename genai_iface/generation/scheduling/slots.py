# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of a scheduler's cache, and the requests that have them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import BackendError
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.protocols import KVCache, Model

__all__ = ["Slots"]


class Slots:
    """Rows of one cache. Changed by the thread that runs the steps; readers hold ``changed``.

    Args:
        model: Makes the cache.
        count: The number of slots, which is the number of rows.
        capacity: Tokens of each; None for the most that the model allows.
        changed: Held while it is changed who has which slot.

    Attributes:
        cache: The cache whose rows they are.
    """

    def __init__(self, model: Model[Any], count: int, capacity: int | None, changed: threading.Condition) -> None:
        self.cache: KVCache = model.create_cache(batch_size=count, capacity=capacity)
        self._changed = changed
        self._can_move = Capability.REORDER in model.capabilities
        self._requests: list[ScheduledRequest | None] = [None] * count
        # Slots in the order in which their requests came.
        self._order: list[int] = []
        self._nobody = TokenSequence()

    def __len__(self) -> int:
        """Slots that are taken."""
        return len(self._order)

    @property
    def count(self) -> int:
        """All slots."""
        return len(self._requests)

    @property
    def taken(self) -> list[tuple[int, ScheduledRequest]]:
        """The slots that are taken and their requests, those that came first first."""
        return [(slot, request) for slot in self._order if (request := self._requests[slot]) is not None]

    @property
    def states(self) -> list[TokenSequence]:
        """The sequence of each row, an empty one where there is none."""
        return [self._nobody if request is None else request.sequence for request in self._requests]

    def admit(self, waiting: deque[ScheduledRequest]) -> None:
        """Gives free slots to those that wait, the lowest first, so that idle rows are at the end."""
        with self._changed:
            for slot, occupant in enumerate(self._requests):
                if occupant is None and waiting:
                    self._requests[slot] = waiting.popleft()
                    self._order.append(slot)

    def close_gaps(self) -> None:
        """Moves the last rows into those that nobody needs: an idle row between others costs as if it ran."""
        gaps = [slot for slot in range(len(self._order)) if self._requests[slot] is None]
        if not gaps or not self._can_move:
            return
        rows = list(range(len(self._requests)))
        for gap, last in zip(gaps, sorted(self._order, reverse=True), strict=False):
            rows[gap], rows[last] = last, gap
        self.cache.reorder(rows)
        with self._changed:
            self._requests = [self._requests[row] for row in rows]
            self._order = [rows.index(slot) for slot in self._order]

    def free(self, slot: int) -> None:
        """Empties a slot."""
        with self._changed:
            self._requests[slot] = None
            self._order.remove(slot)
        self.cache.reset([slot])

    def fail(self, error: BaseException) -> None:
        """Ends the requests of all slots, because their step failed."""
        for slot, request in self.taken:
            reason = BackendError(
                f"The step in which this request ran failed: {type(error).__name__}: {error}",
                remedy="Submit it again; if it fails again, alone too, the model or its runtime is at fault.",
            )
            reason.__cause__ = error
            request.fail(reason, self._changed, self.cache.nbytes)
            self.free(slot)

    def abandon(self) -> None:
        """Forgets all requests; the cache is not touched."""
        self._requests = [None] * len(self._requests)
        self._order.clear()
