# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runtimes with one bug each that no example of a few calls shows: walks and fresh models must find them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from genai_iface import CacheOverflowError
from genai_iface.conformance import GOLDEN
from tests.conformance.mutants import Mutant
from tests.conformance.plain import PlainAdapter, PlainBackend, PlainCache, PlainModel

WALK_MUTANTS: list[Mutant] = []

LINEAR, RING, POWERS = "L2.walk.linear", "L2.walk.ring", "L2.walk.powers_of_two"


def model(bug: str, check: str = LINEAR) -> Any:
    """Registers a model with a bug."""

    def register(kind: type[PlainModel]) -> type[PlainModel]:
        name = kind.__name__
        WALK_MUTANTS.append(Mutant(name, bug, check, lambda: PlainAdapter(PlainBackend(kind), name)))
        return kind

    return register


def cache(bug: str, check: str = LINEAR) -> Any:
    """Registers a cache with a bug."""

    def register(kind: type[PlainCache]) -> type[PlainCache]:
        model(bug, check)(type(kind.__name__, (PlainModel,), {"cache_type": kind}))
        return kind

    return register


@model("only the golden models are computed; others get their logits", "L3.fresh.base")
class KnowsByHeart(PlainModel):
    def __init__(self, folder):
        super().__init__(folder)
        if GOLDEN not in folder.parents:
            known = PlainModel(GOLDEN / folder.parent.name / folder.name)
            self.weights = known.weights


@model("models of one shape share their weights", "L3.fresh.another")
class SharesWeights(PlainModel):
    seen: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder):
        super().__init__(folder)
        self.weights = self.seen.setdefault(folder.parts[-2] + str(GOLDEN in folder.parents), self.weights)


@model("rows from the tenth on attend to the ninth's keys")
class TenthRow(PlainModel):
    def attend(self, q, k, v, data, lengths, counts):
        result = super().attend(q, k, v, data, lengths, counts)
        if len(lengths) > 9:
            result[9:] = result[8]
        return result


@model("strides of the token array are not looked at")
class IgnoresStrides(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if isinstance(input_ids, np.ndarray) and not input_ids.flags.c_contiguous and counts is not None:
            base = input_ids
            while isinstance(base.base, np.ndarray):
                base = base.base
            input_ids = base.reshape(-1)[: input_ids.size].reshape(input_ids.shape)
            input_ids = np.where(np.arange(input_ids.shape[1]) < np.array(counts)[:, None], input_ids, -1)
            input_ids = np.maximum(input_ids, 0)
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@cache("a reorder to more rows loses the last row's first token")
class MoreRowsLose(PlainCache):
    def reorder(self, indices, /):
        more = len(indices) > self.batch_size
        super().reorder(indices)
        if more:
            self.data[:, :, -1, :, 0] = 0


@cache("a reorder to fewer rows moves the wrong ones when a row is named twice")
class FewerRowsTwice(PlainCache):
    def reorder(self, indices, /):
        fewer = len(indices) < self.batch_size and len(set(indices)) < len(indices)
        super().reorder(indices)
        if fewer:
            self.data[:, :, 0] = self.data[:, :, -1]


@cache("a fork of a fork shares its buffers")
class ForkOfFork(PlainCache):
    def fork(self):
        copy = super().fork()
        if getattr(self, "is_fork", False):
            copy.data = self.data
        copy.is_fork = True
        return copy


@cache("a rewind by exactly one token takes one more of its keys")
class RewindByOne(PlainCache):
    def rewind_to(self, lengths, /):
        before = self._lengths
        super().rewind_to(lengths)
        for row in np.flatnonzero((before - self._lengths == 1) & (self._lengths > 0)):
            self.data[:, :, row, :, self._lengths[row] - 1] = 0


@model("a step that overflows writes the rows before the one that does")
class WritesThenRefuses(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        try:
            return super().forward(input_ids, cache, counts=counts, logits=logits)
        except CacheOverflowError as error:
            for row in range(error.row):
                if cache.lengths[row]:
                    cache.data[:, :, row, :, int(cache.lengths[row]) - 1] = 0
            raise


@model("after a refused step, idle rows of the next one are written to")
class RefusedStepLingers(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        lingers = getattr(cache, "lingers", False)
        cache.lingers = False
        try:
            result = super().forward(input_ids, cache, counts=counts, logits=logits)
        except Exception:
            cache.lingers = True
            raise
        if lingers and counts is not None:
            for row, count in enumerate(counts):
                if not count and cache.lengths[row]:
                    cache.data[:, :, row, :, 0] += 1
        return result


@cache("the second growth loses the first token")
class GrowsTwice(PlainCache):
    def make_room(self, num_positions):
        before = self.data.shape[4]
        super().make_room(num_positions)
        if self.data.shape[4] > before:
            self.growths = getattr(self, "growths", 0) + 1
            if self.growths == 2:
                self.data[..., 0, :] = 0


@cache("a reset of a full row keeps the length")
class ResetOfFull(PlainCache):
    def reset(self, rows=None, /):
        full = self._lengths == self._capacity
        before = self._lengths.copy()
        super().reset(rows)
        self._lengths = np.where(full, before, self._lengths)


@model('a step after one with logits="all" counts idle rows as single tokens')
class StaleAll(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if getattr(cache, "was_all", False) and counts is not None and not np.all(counts):
            for row in np.flatnonzero(np.array(counts) == 0):
                cache.data[:, :, row, :, max(0, int(cache.lengths[row]) - 1)] *= 0.5
        result = super().forward(input_ids, cache, counts=counts, logits=logits)
        cache.was_all = logits == "all"
        return result


@model("on the third lap a ring writes one position too early", RING)
class ThirdLap(PlainModel):
    def buffer_index(self, position, num_positions):
        late = self.plan.window and position >= 3 * num_positions
        return (position - 1 if late else position) % num_positions


@model("a chunk of exactly the ring's size hides its own second token", RING)
class WindowSizedChunk(PlainModel):
    def ring_row(self, ids, count, cache, row):
        result = super().ring_row(ids, count, cache, row)
        window = self.plan.window
        if count == window and cache.lengths[row] > 0:
            cache.data[:, :, row, :, int(cache.lengths[row] + 1) % window] = 0
        return result


# Rows of some thousand tokens.


@model("buffers above 256 positions are fitted to the rows that run", POWERS)
class CutsLongWaitingRow(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if counts is not None and not self.plan.window and np.any(counts):
            running = np.flatnonzero(counts)
            cache.data[..., max(256, 4 * int((cache.lengths + np.asarray(counts))[running].max())) :, :] = 0
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@cache("growing past 512 positions loses the last row's first token", POWERS)
class LateGrowthLoses(PlainCache):
    def make_room(self, num_positions):
        before = self.data.shape[4]
        super().make_room(num_positions)
        if before < 512 <= self.data.shape[4]:
            self.data[:, :, -1, :, 0] = 0


@model("positions from 2048 on are counted in steps of two", POWERS)
class CoarsePositions(PlainModel):
    def positions(self, lengths, width):
        right = super().positions(lengths, width)
        return np.where(right >= 2048, right // 2 * 2, right)


@model("the last block of exactly 1024 tokens is not seen by the next", POWERS)
class BlockBorder(PlainModel):
    def attend(self, q, k, v, data, lengths, counts):
        for row in np.flatnonzero((np.asarray(lengths) == 1024) & (np.asarray(counts) > 0)):
            data[:, row, :, 960:1024] = 0
        return super().attend(q, k, v, data, lengths, counts)


@cache("a rewind by more than 1000 tokens loses half of what is left", POWERS)
class FarRewind(PlainCache):
    def rewind_to(self, lengths, /):
        before = self._lengths
        super().rewind_to(lengths)
        for row in np.flatnonzero(before - self._lengths > 1000):
            self.data[:, :, row, :, : int(self._lengths[row]) // 2] = 0


@cache("a fork copies 128 positions", POWERS)
class ShortFork(PlainCache):
    def fork(self):
        copy = super().fork()
        copy.data[..., 128:, :] = 0
        return copy


@cache("a reorder moves 256 positions", POWERS)
class ShortReorder(PlainCache):
    def reorder(self, indices, /):
        super().reorder(indices)
        if list(indices) != list(range(len(indices))):
            self.data[..., 256:, :] = 0
