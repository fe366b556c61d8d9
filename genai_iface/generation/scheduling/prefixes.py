# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What rows of a cache hold that a new prompt begins with, and how much of it can be used."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.generation.scheduling.prefix_tree import PrefixTree
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.protocols import KVCache, Model, SupportsCheckpoint

__all__ = ["Holder", "Prefixes"]

_LEAST = 16
"""Shorter prefixes are not worth a copy."""

_INTERVAL = 256
"""Distance of the checkpoints of a prompt, for models with states; also what caches grow by at most places."""


class Holder:
    """Who has a row: a request, or what a finished one has left.

    Attributes:
        request: The request; None once it has ended.
        is_settled: Whether its row has all that it gets from others.
        last_used: Grows with each use of a finished one.
    """

    __slots__ = ("is_settled", "last_used", "request", "wishes")

    def __init__(self, request: ScheduledRequest) -> None:
        self.request: ScheduledRequest | None = request
        self.is_settled = False
        self.last_used = 0
        # Lengths at which somebody may want to go on from here; for models with states.
        self.wishes: set[int] = set()

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens of the request's prompt; none once it has ended."""
        return () if self.request is None else self.request.request.prompts[0]


class Prefixes:
    """Finds prefixes. Used by the thread that runs the steps.

    Args:
        model: Its capabilities decide what can be used.
        budget: Most bytes of the rows, and of the checkpoints, that finished requests keep; 0 for no reuse.
    """

    def __init__(self, model: Model[Any], budget: int) -> None:
        capabilities = model.capabilities
        self.is_on = budget > 0 and Capability.REORDER in capabilities
        self._budget = budget
        self._spec = model.spec.cache
        self._rewinds = Capability.REWIND in capabilities
        self._checkpoints = Capability.CHECKPOINT in capabilities and not self._rewinds
        self._tree: PrefixTree[Holder] = PrefixTree()
        self._clock = itertools.count(1)

    def add(self, holder: Holder, tokens: Sequence[int]) -> None:
        """Takes note of the tokens of a row, in place of what was known of it."""
        if self.is_on:
            self._tree.insert(holder, tokens)
            holder.last_used = next(self._clock)

    def forget(self, holder: Holder) -> None:
        """The row holds something else now."""
        self._tree.remove(holder)

    def use(self, holder: Holder) -> None:
        """It was of use, so it goes later."""
        holder.last_used = next(self._clock)

    def best(
        self, holder: Holder, rows: Mapping[Holder, int], lengths: Sequence[int], cache: KVCache
    ) -> tuple[Holder | None, int]:
        """The row that has most of a prompt's beginning, and how much of it can be used.

        Args:
            holder: Has the prompt.
            rows: All rows by who has them.
            lengths: Tokens of each row.
            cache: The rows.
        """
        prompt = holder.prompt
        found: Holder | None = None
        most = 0
        if not self._may_reuse(holder):
            return None, 0
        for shared, holders in self._tree.matches(prompt):
            if shared <= most:
                break
            for other in holders:
                if other is holder or other not in rows:
                    continue
                row = rows[other]
                # The last token of a prompt runs in any case: its logits are needed.
                wanted = min(shared, len(prompt) - 1, lengths[row])
                length = self._reach(cache, row, lengths[row], wanted)
                if length < wanted:
                    # The next one that begins so will find a state here.
                    holder.wishes.add(wanted)
                if length > most:
                    found, most = other, length
        return (found, most) if most >= _LEAST else (None, 0)

    def is_coming(self, holder: Holder, earlier: Sequence[Holder], lengths: Mapping[Holder, int], have: int) -> bool:
        """Whether a request that came earlier is about to run more of a prompt's beginning than there is.

        Args:
            holder: Has the prompt.
            earlier: Requests that came before.
            lengths: Tokens that their rows hold.
            have: Tokens that can be used now.
        """
        prompt = holder.prompt
        if not self._may_reuse(holder):
            return False
        before = set(earlier)
        for shared, holders in self._tree.matches(prompt):
            length = min(shared, len(prompt) - 1)
            if length <= have or length < _LEAST:
                break
            for other in holders & before:
                if other.request is not None and lengths[other] < length:
                    other.wishes.add(length)
                    if self._rewinds or self._checkpoints:
                        return True
        return False

    def num_kept(self, longest: int, cache: KVCache) -> int:
        """How many finished requests may keep their rows, if the longest row has so many tokens."""
        if not self.is_on:
            return 0
        positions = -(-max(longest, 1) // _INTERVAL) * _INTERVAL
        row = max(positions * cache.bytes_per_token + self._spec.bytes_per_row, cache.nbytes // cache.batch_size, 1)
        return self._budget // row

    def spares(self, holder: Holder, tokens: Sequence[int], rows: Mapping[Holder, int]) -> list[Holder]:
        """Finished requests whose tokens are all at the beginning of another one's."""
        return [
            other
            for shared, holders in self._tree.matches(tokens)
            for other in holders
            if other is not holder and other.request is None and other in rows and self._tree.size(other) <= shared
        ]

    # Models with states

    def limit(self, holder: Holder, length: int, count: int) -> int:
        """How many of ``count`` tokens of a prompt run before the next checkpoint."""
        if not (self.is_on and self._checkpoints) or count == 1:
            return count
        stops = {wish for wish in holder.wishes if wish > length} | {(length // _INTERVAL + 1) * _INTERVAL}
        return min(count, min(stops) - length)

    def checkpoint(self, holders: Mapping[Holder, int], lengths: Sequence[int], cache: KVCache) -> None:
        """Keeps the states of rows that have come to a length of interest, as far as the budget goes."""
        if not (self.is_on and self._checkpoints) or not isinstance(cache, SupportsCheckpoint):
            return
        cost = max(cache.bytes_per_row, 1)
        num_kept = sum(len(cache.checkpoints(row)) for row in holders.values())
        for holder, row in holders.items():
            length = lengths[row]
            end = len(holder.prompt)
            if not 0 < length <= end or not (length in (*holder.wishes, end) or length % _INTERVAL == 0):
                continue
            if length not in cache.checkpoints(row) and (num_kept + 1) * cost <= self._budget:
                cache.checkpoint([row])
                num_kept += 1

    def _may_reuse(self, holder: Holder) -> bool:
        request = holder.request
        # Log-probabilities of a prompt need its steps.
        return self.is_on and request is not None and not request.sequence.wants_prompt_logprobs

    def _reach(self, cache: KVCache, row: int, length: int, wanted: int) -> int:
        """The longest length up to ``wanted`` that a copy of a row can be cut to."""
        if self._rewinds or wanted == length:
            return wanted
        if self._checkpoints and isinstance(cache, SupportsCheckpoint):
            return max((kept for kept in cache.checkpoints(row) if kept <= wanted), default=0)
        return 0
