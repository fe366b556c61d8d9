# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for a slot: the most urgent one is next, and nobody is passed over without end."""

from __future__ import annotations

from collections.abc import Iterator

from genai_iface.generation.scheduling.request import ScheduledRequest

__all__ = ["MOST_OVERTAKEN", "WaitingRequests"]

MOST_OVERTAKEN = 32
"""So many later requests may get a slot before a waiting one; then it is its turn, whatever comes."""


class WaitingRequests:
    """In the order in which they came, with what is next by priority. Used under the lock of its scheduler."""

    def __init__(self) -> None:
        # How many later ones were preferred to each.
        self._overtaken: dict[ScheduledRequest, int] = {}

    def __len__(self) -> int:
        return len(self._overtaken)

    def __iter__(self) -> Iterator[ScheduledRequest]:
        return iter(self._overtaken)

    def __contains__(self, request: object) -> bool:
        return request in self._overtaken

    def add(self, request: ScheduledRequest) -> None:
        """Lets a request wait."""
        self._overtaken[request] = 0

    def remove(self, request: ScheduledRequest) -> None:
        """Takes out a request that does not wait any more."""
        del self._overtaken[request]

    def clear(self) -> None:
        """Takes out all of them."""
        self._overtaken.clear()

    def take(self) -> ScheduledRequest:
        """Takes out the next one: of the smallest priority the oldest, unless one was overtaken too often."""
        overdue = [request for request, count in self._overtaken.items() if count >= MOST_OVERTAKEN]
        chosen = overdue[0] if overdue else min(self._overtaken, key=lambda request: request.priority)
        for request in self._overtaken:
            if request is chosen:
                break
            self._overtaken[request] += 1
        del self._overtaken[chosen]
        return chosen
