# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runtimes with one bug each. Every one must fail at least the check that is named for it.

A mutant that no check kills is a missing check. Bugs of model and cache are here, those of the loop in
``mutants_pipeline.py``; ``write_mutants.py`` prints the table of the docs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface import CacheOverflowError, load_backend
from genai_iface.conformance import Adapter
from tests.conformance.plain import PlainAdapter, PlainBackend, PlainCache, PlainModel


@dataclass(frozen=True)
class Mutant:
    """A runtime with one bug.

    Attributes:
        name: Short.
        bug: What it does wrong.
        check: The check that is made for this bug.
        make: Makes its adapter.
    """

    name: str
    bug: str
    check: str
    make: Callable[[], Adapter]


MUTANTS: list[Mutant] = []


def model(bug: str, check: str, **info: Any) -> Callable[[type[PlainModel]], type[PlainModel]]:
    """Registers a model with a bug."""

    def register(kind: type[PlainModel]) -> type[PlainModel]:
        name = kind.__name__
        MUTANTS.append(Mutant(name, bug, check, lambda: PlainAdapter(PlainBackend(kind, info), name)))
        return kind

    return register


def cache(bug: str, check: str) -> Callable[[type[PlainCache]], type[PlainCache]]:
    """Registers a cache with a bug."""

    def register(kind: type[PlainCache]) -> type[PlainCache]:
        broken = type(kind.__name__, (PlainModel,), {"cache_type": kind})
        name = kind.__name__
        MUTANTS.append(Mutant(name, bug, check, lambda: PlainAdapter(PlainBackend(broken), name)))
        return kind

    return register


def info(name: str, bug: str, check: str, **values: Any) -> None:
    """Registers a backend that says something untrue."""
    MUTANTS.append(Mutant(name, bug, check, lambda: PlainAdapter(PlainBackend(PlainModel, values), name)))


# Where a step writes.


@model("row 0's write index is used for all rows", "L2.write.per_row_indices")
class FirstRowsIndex(PlainModel):
    def write_indices(self, lengths):
        return np.full_like(lengths, lengths[0])


@model("the write index is one too high", "L2.write.chunk_at_offset")
class IndexOffByOne(PlainModel):
    def write_indices(self, lengths):
        return np.where(lengths > 0, lengths + 1, 0)

    def buffer_index(self, position, num_positions):
        return min(position, num_positions - 1)


@model("a linear cache wraps around", "L3.golden.two_layers")
class LinearWraps(PlainModel):
    def buffer_index(self, position, num_positions):
        return position % 16


@model("a circular cache stops at its last position", "L2.circular.wraps")
class RingSticks(PlainModel):
    def buffer_index(self, position, num_positions):
        return min(position, num_positions - 1)


@model("a prompt longer than the ring is written before anything is read", "L2.circular.long_prompt")
class RingWritesFirst(PlainModel):
    def ring_row(self, ids, count, cache, row):
        lengths = cache.lengths[row : row + 1]
        return self.run(ids[None], cache, lengths, np.array([count]), slice(row, row + 1))[0]


@model("padding is written into a ring, over the oldest tokens", "L2.circular.padding")
class RingTakesPadding(PlainModel):
    def ring_row(self, ids, count, cache, row):
        result = super().ring_row(ids, count, cache, row)
        num_positions = cache.data.shape[4]
        for step in range(count, len(ids)):
            cache.data[:, :, row, :, (int(cache.lengths[row]) + step) % num_positions] = 1
        return result


@model("a decode step without counts leaves out the rows that were idle in the one before", "L2.idle.unchanged")
class StaleCounts(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        stale = getattr(cache, "stale", None)
        if counts is not None and np.shape(input_ids)[1] == 1:
            cache.stale = np.array(counts)
        if counts is not None or np.shape(input_ids)[1:] != (1,) or stale is None or len(stale) != len(cache.lengths):
            return super().forward(input_ids, cache, counts=counts, logits=logits)
        result = super().forward(input_ids, cache, counts=stale, logits=logits)
        cache._lengths = cache.lengths + 1 - stale
        return result


@model("buffers are fitted to the rows that run, and a longer row that waits is cut", "L2.idle.longer_row")
class CutsWaitingRow(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if counts is not None and not self.plan.window and np.any(counts):
            running = np.flatnonzero(counts)
            cache.data[..., max(16, 2 * int((cache.lengths + np.asarray(counts))[running].max())) :, :] = 0
        return super().forward(input_ids, cache, counts=counts, logits=logits)


# What a step sees.


@model("causal from the top left: the past is not counted", "L2.write.chunk_at_offset")
class TopLeftCausal(PlainModel):
    def causal_offset(self, nonpad, width):
        return 0 if width > 1 else nonpad - width


@model("the valid length leaves out the new tokens", "L2.write.prefill")
class NonpadWithoutChunk(PlainModel):
    def nonpad(self, lengths, counts, width):
        return lengths


@model("the valid length is lengths + counts, so the causal offset is wrong in padded rows", "L2.padding.never_visible")
class NonpadFromCounts(PlainModel):
    def nonpad(self, lengths, counts, width):
        return lengths + counts


@model("a query sees one token of its future", "L2.write.every_query_of_a_chunk")
class SeesFuture(PlainModel):
    def causal_offset(self, nonpad, width):
        return nonpad - width + 1


@model("a query does not see the first token", "L2.write.one_by_one")
class ForgetsFirst(PlainModel):
    def attend(self, q, k, v, data, lengths, counts):
        result = super().attend(q, k, v, data, lengths, counts)
        data[:, lengths > 6, :, 0] = 0
        return result


@model("all rows have row 0's valid length", "L2.write.ragged_chunk")
class FirstRowsLength(PlainModel):
    def nonpad(self, lengths, counts, width):
        return np.full_like(lengths, lengths[0]) + width


@model("rows read the keys of the row before them", "L3.same.batch_row")
class BatchLeakage(PlainModel):
    def attend(self, q, k, v, data, lengths, counts):
        super().attend(q, k, v, data, lengths, counts)
        return super().attend(q, k, v, np.roll(data, 1, axis=1), lengths, counts)


@model("padding is visible: lengths grow by the width", "L2.lengths.grow_by_counts")
class PadVisible(PlainModel):
    class Cache(PlainCache):
        def advance(self, counts, width):
            self._lengths = np.where(counts > 0, self._lengths + width, self._lengths)

    cache_type = Cache


@model("padding must be a legal token id", "L2.padding.illegal_ids")
class PadMustBeLegal(PlainModel):
    def padding(self, clean, given, counts):
        return np.asarray(given)


@model("positions restart with every step", "L2.write.one_by_one")
class PositionsRestart(PlainModel):
    def positions(self, lengths, width):
        return np.zeros_like(lengths)[:, None] + np.arange(width)


@model("all rows have row 0's positions", "L2.write.per_row_indices")
class FirstRowsPositions(PlainModel):
    def positions(self, lengths, width):
        return np.full_like(lengths, lengths[0])[:, None] + np.arange(width)


@model("in a padded step the last column's logits are returned", "L3.logits.last_is_last_of_all")
class LastColumn(PlainModel):
    def select(self, every, counts, logits):
        return every[:, -1:] if logits == "last" else super().select(every, counts, logits)


@model('logits="none" returns a row', "L3.logits.none")
class NoneGivesOne(PlainModel):
    def select(self, every, counts, logits):
        return super().select(every, counts, "last" if logits == "none" else logits)


# Shapes.


@model("heads are grouped in turns instead of in blocks", "L3.golden.group_size_3")
class InterleavedGroups(PlainModel):
    def kv_head(self, head):
        return head % self.plan.num_kv_heads


@model("the whole head is rotated where only a part should be", "L3.golden.partial_rotary")
class RotatesTooLittle(PlainModel):
    def rotary_size(self):
        return super().rotary_size() // 2 if self.plan.rotary_dim else super().rotary_size()


@model("softcap is left out", "L3.golden.softcap")
class NoSoftcap(PlainModel):
    def cap(self, scores):
        return scores


@model("the scale is that of head size 64", "L3.golden.head_dim_80")
class FixedScale(PlainModel):
    def scale(self):
        return 1 / 8 if self.plan.head_dim >= 64 else super().scale()


@model("head sizes above 128 are cut off", "L3.golden.head_dim_256")
class ShortHeads(PlainModel):
    def matmul(self, left, right):
        return super().matmul(left[..., :128], right[:128]) if left.shape[-1] == 256 else super().matmul(left, right)


@model("sums are kept in float16", "L3.golden.head_dim_128")
class Float16Sums(PlainModel):
    def matmul(self, left, right):
        return (left.astype(np.float16) @ right.astype(np.float16)).astype(np.float32)


@model("only the last 2048 tokens are seen", "L3.golden.long_context")
class ShortMemory(PlainModel):
    def attend(self, q, k, v, data, lengths, counts):
        if lengths.max() > 2048:
            data = data.copy()
            data[:, :, :, : int(lengths.max()) - 2048] = 0
        return super().attend(q, k, v, data, lengths, counts)


# The cache.


@cache("a rewind forgets to set the length", "L2.rewind.never_appended")
class RewindForgets(PlainCache):
    def rewind_to(self, lengths, /):
        self.can_rewind_to(lengths)


@cache("a rewind takes all rows to the shortest length", "L2.rewind.per_row")
class RewindAllRows(PlainCache):
    def rewind_to(self, lengths, /):
        super().rewind_to(np.full(self.batch_size, np.min(lengths)))


@cache("a rewind clears the first kept token", "L2.rewind.then_chunk")
class RewindClears(PlainCache):
    def rewind_to(self, lengths, /):
        super().rewind_to(lengths)
        self.data[..., 0, :] = 0


@cache("can_rewind_to() rewinds", "L2.rewind.can_rewind_agrees")
class AskingRewinds(PlainCache):
    def can_rewind_to(self, lengths, /):
        can = super().can_rewind_to(lengths)
        if can:
            self.rewind_to(lengths)
        return can


@cache("a wrapped ring is rewound anyway", "L2.circular.refuses_rewind")
class RingRewinds(PlainCache):
    def lost_row(self, wanted):
        return None


@cache("a rewind looks at the first circular layer only", "L2.circular.every_window")
class FirstWindowOnly(PlainCache):
    def lost_row(self, wanted):
        window = self.plan.window_of(0)
        lost = np.flatnonzero((self._lengths > (window or self._capacity)) & (wanted < self._lengths))
        return int(lost[0]) if lost.size else None


@model("all rings are as large as the smallest", "L2.circular.two_windows")
class OneWindowForAll(PlainModel):
    def buffer_index(self, position, num_positions):
        return position % (self.plan.window or num_positions)

    def nonpad(self, lengths, counts, width):
        return np.minimum(super().nonpad(lengths, counts, width), self.plan.window or self.plan.context_length)


@cache("a fork shares its buffers", "L2.fork.independent")
class SharedFork(PlainCache):
    def fork(self):
        copy = super().fork()
        copy.data = self.data
        return copy


@cache("a reset keeps the lengths", "L2.reset.all")
class StaleReset(PlainCache):
    def reset(self, rows=None, /):
        super().reset([] if rows is None else rows)


@cache("a reset empties every row", "L2.reset.rows")
class ResetsAll(PlainCache):
    def reset(self, rows=None, /):
        super().reset()


@cache("reset([]) empties every row", "L2.reset.no_rows")
class EmptyResetsAll(PlainCache):
    def reset(self, rows=None, /):
        super().reset(rows if rows is not None and len(rows) else None)


@cache("reorder moves keys and forgets lengths", "L2.reorder.permutes")
class ReorderKeepsLengths(PlainCache):
    def reorder(self, indices, /):
        lengths = self._lengths
        super().reorder(indices)
        if len(self._lengths) == len(lengths):
            self._lengths = lengths


@cache("reorder moves keys and not values", "L2.reorder.bit_exact")
class ReorderKeysOnly(PlainCache):
    def reorder(self, indices, /):
        values = self.data[:, 1].copy()
        super().reorder(indices)
        rows = min(values.shape[1], self.data.shape[2])
        self.data[:, 1, :rows] = values[:, :rows]


@cache("copies of a row alias each other", "L2.reorder.duplicates")
class ReorderAliases(PlainCache):
    aliases: tuple[int, ...] = ()

    def reorder(self, indices, /):
        super().reorder(indices)
        self.aliases = tuple(int(index) for index in indices)

    def advance(self, counts, width):
        super().advance(counts, width)
        # The row written last wins in all rows that share its buffer.
        for row, index in enumerate(self.aliases):
            last = max(place for place, other in enumerate(self.aliases) if other == index)
            self.data[:, :, row] = self.data[:, :, last]


@cache("reorder goes in place, so that later rows read moved ones", "L2.reorder.more_rows")
class ReorderInPlace(PlainCache):
    def reorder(self, indices, /):
        order = list(indices)
        before = self.data
        super().reorder(order)
        for row, index in enumerate(order):
            self.data[:, :, row] = self.data[:, :, index] if index < row else before[:, :, index]


@cache("all caches of a model share one buffer", "L2.isolation.two_caches")
class OneBuffer(PlainCache):
    def __init__(self, model, batch_size, capacity):
        super().__init__(model, batch_size, capacity)
        self.data = model.__dict__.setdefault("shared", self.data)
        if self.data.shape[2] != batch_size:
            super().__init__(model, batch_size, capacity)


@cache("growing loses the tokens", "L3.same.growth")
class GrowthForgets(PlainCache):
    def make_room(self, num_positions):
        have = self.data.shape[4]
        super().make_room(num_positions)
        if self.data.shape[4] != have:
            self.data[..., : have // 2, :] = 0


@cache("the capacity grows with the content", "L2.capacity.constant")
class CapacityGrows(PlainCache):
    @property
    def capacity(self):
        return max(self._capacity, self.data.shape[4])


@cache("lengths shows the cache's own array", "L2.lengths.snapshot")
class LengthsShared(PlainCache):
    @property
    def lengths(self):
        return self._lengths


@cache("rewind_to keeps the caller's array", "L2.rewind.snapshot")
class RewindKeepsArray(PlainCache):
    def rewind_to(self, lengths, /):
        super().rewind_to(lengths)
        if isinstance(lengths, np.ndarray):
            self._lengths = lengths


@cache("read() shows the buffer", "L2.inspect.copies")
class ReadShows(PlainCache):
    def read(self, layer, row, /):
        length = int(self._lengths[row])
        return self.data[layer, 0, row, :, :length], self.data[layer, 1, row, :, :length]


@cache("a closed cache still counts its bytes", "L2.close.frees")
class CloseKeepsBytes(PlainCache):
    @property
    def nbytes(self):
        return int(self.data.nbytes)


@cache("a closed cache says what it could be rewound to", "L2.close.methods")
class AnswersClosed(PlainCache):
    def can_rewind_to(self, lengths, /):
        return self.is_closed or super().can_rewind_to(lengths)


@cache("a closed cache has no rows", "L2.close.properties")
class CloseForgetsRows(PlainCache):
    def close(self):
        super().close()
        self._lengths = self._lengths[:0]


@cache('"in_place" is declared, but steps copy', "L2.memory.update_mode")
class CopiesAll(PlainCache):
    @property
    def update_mode(self):
        return "copied"


@cache("memory for the whole capacity at once, though growth is declared", "L2.memory.growth")
class NoGrowth(PlainCache):
    @property
    def nbytes(self):
        return 0 if self.is_closed else self.batch_size * self._capacity * self.bytes_per_token


# Refusals.


@model("an overflow is swallowed: the row stays as it is", "L2.overflow.raises")
class OverflowSwallowed(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        try:
            return super().forward(input_ids, cache, counts=counts, logits=logits)
        except CacheOverflowError:
            rows = np.asarray(input_ids).shape[0]
            return np.zeros((rows, 1, self.spec.vocab_size), np.float32)


@model("an overflow is raised after the other rows were written", "L2.overflow.before_anything_changes")
class OverflowLate(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        try:
            return super().forward(input_ids, cache, counts=counts, logits=logits)
        except CacheOverflowError:
            cache._lengths = np.minimum(
                cache._lengths + np.asarray(counts if counts is not None else 1), cache.capacity
            )
            raise


@model("padding is counted as need for room", "L2.overflow.padding_does_not_count")
class OverflowByWidth(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        width = np.asarray(input_ids).shape[-1]
        over = np.flatnonzero(cache.lengths + width > cache.capacity)
        if over.size:
            raise CacheOverflowError(int(over[0]), int(cache.lengths[over[0]]) + width, cache.capacity)
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("the last position cannot be used", "L2.overflow.whole_context")
class LastPositionLost(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        width = np.asarray(input_ids).shape[-1]
        if int(cache.lengths.max()) + width == cache.capacity:
            raise CacheOverflowError(0, cache.capacity, cache.capacity - 1)
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("a token id beyond the vocabulary is clipped", "L0.errors.token_too_large")
class ClipsTokens(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        ids = np.asarray(input_ids)
        ids = np.clip(ids, None, self.spec.vocab_size - 1) if np.issubdtype(ids.dtype, np.integer) else ids
        return super().forward(ids, cache, counts=counts, logits=logits)


@model("a negative token id counts from the end", "L0.errors.token_negative")
class WrapsTokens(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        ids = np.asarray(input_ids)
        ids = np.where((ids < 0) & (ids >= -self.spec.vocab_size), ids % self.spec.vocab_size, ids)
        return super().forward(ids, cache, counts=counts, logits=logits)


@model("the caller's token ids are padded in place", "L2.arrays.arguments_untouched")
class WritesArguments(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        result = super().forward(input_ids, cache, counts=counts, logits=logits)
        if isinstance(input_ids, np.ndarray) and counts is not None and input_ids.flags.writeable:
            input_ids[np.arange(input_ids.shape[1]) >= np.asarray(counts)[:, None]] = 0
        return result


@model("logits are returned in a buffer that the next step reuses", "L2.arrays.result_belongs_to_caller")
class ReusesLogits(PlainModel):
    def select(self, every, counts, logits):
        result = super().select(every, counts, logits)
        buffer = self.__dict__.setdefault(f"buffer{result.shape}", np.empty_like(result))
        buffer[...] = result
        return buffer


@model("a closed cache can be used", "L0.errors.closed_cache")
class ClosedWorks(PlainModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        cache.is_closed = False
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("one buffer serves all threads", "L3.same.threads")
class NotThreadSafe(PlainModel):
    def attend(self, q, k, v, data, lengths, counts):
        self.scratch = v
        # Another thread may come between.
        import time

        time.sleep(0.0005)
        return super().attend(q, k, self.scratch if self.scratch.shape == v.shape else v, data, lengths, counts)


@model("a declared ability is refused", "L0.capabilities.declared")
class RefusesBatch(PlainModel):
    def create_cache(self, *, batch_size=1, capacity=None):
        from genai_iface import UnsupportedCapabilityError

        if batch_size > 1:
            raise UnsupportedCapabilityError("no batches here", capability="batch")
        return super().create_cache(batch_size=batch_size, capacity=capacity)


@model("the folder gets a cache file", "L0.load.folder_unchanged")
class WritesFolder(PlainModel):
    def __init__(self, folder):
        super().__init__(folder)
        if "golden" not in folder.parts:
            (folder / "compiled.bin").write_bytes(b"0")


# Saved caches, on the NumPy backend.


class _SavingAdapter:
    """The NumPy backend, with models that are changed after loading."""

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self.name = name
        self._change = change

    def backend(self) -> Any:
        backend = load_backend("numpy")
        load = backend.load

        def load_changed(folder: Any, /, **arguments: Any) -> Any:
            model = load(folder, **arguments)
            self._change(model)
            return model

        backend.load = load_changed  # type: ignore[method-assign]
        return backend


def _loads_empty(model: Any) -> None:
    load = model.load_cache

    def load_cache(path: Any, /, *, capacity: int | None = None) -> Any:
        cache = load(path, capacity=capacity)
        cache.reset()
        return cache

    model.load_cache = load_cache


def _saves_in_place(model: Any) -> None:
    save = model.save_cache

    def save_cache(cache: Any, path: Any, /) -> None:
        with open(path, "wb") as file:
            file.write(b"half")
        save(cache, path)

    model.save_cache = save_cache


def _saves_closed(model: Any) -> None:
    save, close = model.save_cache, model.close

    def close_later() -> None:
        # Weights of a closed model are not needed to write a cache.
        model.save_cache = lambda cache, path, /: Path(path).write_bytes(b"saved")
        close()

    model.save_cache, model.close = save, close_later


for _name, _bug, _check, _change in (
    ("LoadsEmpty", "a loaded cache is empty", "L2.save.round_trip", _loads_empty),
    ("SavesClosed", "a closed model saves caches", "L2.save.closed_model", _saves_closed),
    ("SavesInPlace", "a save that fails leaves half a file", "L2.save.atomic", _saves_in_place),
):
    MUTANTS.append(Mutant(_name, _bug, _check, partial(_SavingAdapter, _name, _change)))


info("NothingDeclared", "nothing is declared", "L2.write.per_row_indices", capabilities=frozenset({"cache_scatter"}))
info(
    "OldInterface",
    "the interface version is one that nobody drives",
    "L0.backend.interface_version",
    interface_versions=frozenset({99}),
)
info(
    "UnknownCapability",
    "a capability is misspelt",
    "L0.backend.capability_names",
    capabilities=PlainBackend().info().capabilities | {"btach"},
)
info("NoRuntimeVersion", "the runtime's version is empty", "L0.backend.info", runtime_version="")

BROKEN = PlainAdapter(PlainBackend(TopLeftCausal), "broken")
