# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model: turns one step of the interface into runs of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import BackendError, GenAIError, InvalidInputError
from genai_iface.folder import GraphContract, ModelFolder, load_saved_cache, save_cache_file
from genai_iface.steps import RowGroup, Step, check_batch_and_capacity, check_step, group_rows
from genai_iface.transform import GRAPH_ERRORS, LOGITS_POSITIONS, SelectLogits
from genai_iface.types import Device, LogitsMode, ModelSpec, UpdateMode
from genai_iface_numpy.cache import BufferSpec, NumpyCache
from genai_iface_numpy.evaluator import Evaluator

__all__ = ["NumpyModel"]

_DTYPES: Mapping[str, Any] = MappingProxyType(
    {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}
)

_INITIAL_SLOTS = 256
# What a run of the graph costs by itself, in tokens of a prompt; see ``group_rows``.
_RUN_COST = 16


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the graph: some rows, some columns of the step.

    Attributes:
        rows: Which rows; a slice, so that buffers are viewed and not copied.
        columns: Which columns of input_ids.
        starts: int64 (rows,), the position of each row's first token in this run.
    """

    rows: slice
    columns: slice
    starts: NDArray[np.int64]


class NumpyModel:
    """Implements ``Model[NumpyCache]``.

    Args:
        folder: The opened folder.
        device: The device, always the processor.
    """

    def __init__(self, folder: ModelFolder, /, *, device: Device) -> None:
        self._contract = folder.contract
        self._spec = folder.spec
        self._device = device
        self._folder = folder
        self._outputs = [self._contract.logits, *(tensor.present for tensor in self._contract.cache_tensors)]
        graph = folder.load_ir()
        select = SelectLogits(self._contract)
        try:
            select(graph)
            self._selects_logits = select.note.applied
            self._evaluator: Evaluator | None = Evaluator(graph, keep=self._outputs)
        except GenAIError:
            raise
        except GRAPH_ERRORS as error:
            raise BackendError(
                f"onnx.reference cannot load {folder.path}: {type(error).__name__}: {str(error)[:300]}",
                remedy="Check the model with onnx.checker, or use another backend.",
            ) from error
        self._buffer_specs = _buffer_specs(self._contract, self._spec)

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def device(self) -> Device:
        """The processor."""
        return self._device

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do here; what depends on the cache style is left out where it is absent."""
        always = {
            Capability.BATCH,
            Capability.RAGGED,
            Capability.CHUNKED_PREFILL,
            Capability.LOGITS_ALL,
            Capability.REORDER,
            Capability.GROWTH,
            Capability.THREADS,
            Capability.FORK,
            Capability.INSPECT,
            Capability.SAVE,
        }
        cache = self._spec.cache
        if cache.style == "scatter":
            always |= {Capability.CACHE_SCATTER, Capability.IN_PLACE}
        else:
            always |= {Capability.CACHE_CONCAT}
        always |= {Capability.CACHE_CIRCULAR} if cache.is_circular else {Capability.REWIND}
        return frozenset(always)

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> NumpyCache:
        """Makes an empty cache. With a capacity it is reserved at once, without one it grows."""
        self._loaded()
        bounds = [bound for bound in (self._spec.context_length, self._spec.cache.fixed_capacity) if bound is not None]
        check_batch_and_capacity(batch_size, capacity, min(bounds, default=None))
        most = min(bounds, default=np.iinfo(np.int32).max) if capacity is None else capacity
        fixed = self._spec.cache.fixed_capacity
        slots = fixed if fixed is not None else capacity if capacity is not None else min(most, _INITIAL_SLOTS)
        return NumpyCache(
            self._buffer_specs,
            batch_size=batch_size,
            capacity=most,
            slots=slots,
            bytes_per_token=self._spec.cache.bytes_per_token,
            update_mode="in_place" if self._spec.cache.style == "scatter" else "copied",
        )

    def forward(
        self,
        input_ids: ArrayLike,
        cache: NumpyCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """Appends tokens to the rows of a cache and returns logits."""
        self._loaded()
        self._check_cache(cache)
        lengths = cache.lengths
        step = check_step(
            input_ids,
            counts,
            logits,
            lengths=lengths,
            capacity=cache.capacity,
            vocab_size=self._spec.vocab_size,
        )
        batch_size, width = step.input_ids.shape
        shape = {"last": 1, "all": width, "none": 0}[step.logits]
        result = np.zeros((batch_size, shape, self._spec.vocab_size), np.float32)
        mode: UpdateMode = cache.update_mode
        for run in self._plan(step, cache, lengths):
            values, mode = self._execute(run, step, cache)
            _store_logits(result, values, run, step)
        cache.advance(step.counts, mode)
        return result

    def save_cache(self, cache: NumpyCache, path: str | PathLike[str], /) -> None:
        """Writes the valid content of a cache to a safetensors file."""
        self._check_cache(cache)
        save_cache_file(path, folder=self._folder, lengths=cache.lengths, read=cache.read)

    def load_cache(self, path: str | PathLike[str], /, *, capacity: int | None = None) -> NumpyCache:
        """Makes a cache from such a file; any backend may have written it."""
        with load_saved_cache(path, folder=self._folder) as saved:
            cache = self.create_cache(batch_size=len(saved.lengths), capacity=capacity)
            longest = int(saved.lengths.max())
            if longest > cache.capacity:
                raise InvalidInputError(
                    f"The saved cache has a row of {longest} tokens, capacity={cache.capacity} is too small",
                    remedy=f"Pass at least {longest}.",
                )
            cache.grow_to(longest)
            for row, length in enumerate(saved.lengths.tolist()):
                cache.restore(row, length, saved.row(row))
        return cache

    def close(self) -> None:
        """Frees the weights."""
        self._evaluator = None

    def _loaded(self) -> Evaluator:
        if self._evaluator is None:
            raise InvalidInputError("The model is closed", remedy="Load it again.")
        return self._evaluator

    def _check_cache(self, cache: NumpyCache) -> None:
        if getattr(cache, "specs", None) is not self._buffer_specs:
            raise InvalidInputError("The cache was not made by this model", remedy="Use this model's create_cache().")
        cache.check_open()

    def _plan(self, step: Step, cache: NumpyCache, lengths: NDArray[np.int64]) -> Iterator[_Run]:
        """The runs of the graph that make up a step: groups of rows where padding does no harm, else row by row."""
        batch_size, width = step.input_ids.shape
        whole = [RowGroup(0, batch_size, width)]
        groups = group_rows(step.counts, run_cost=_RUN_COST) if step.is_ragged else whole
        fitting = [self._allows_one_run(step, group, lengths) for group in groups]
        ends = [
            int(lengths[group.begin : group.stop].max()) + group.width
            for group, fits in zip(groups, fitting, strict=True)
            if fits
        ]
        # All at once: growing later would lose what the first runs of the step have written.
        needed = max([int((lengths + step.counts).max()), *ends])
        cache.grow_to(min(needed, cache.capacity))
        for group, fits in zip(groups, fitting, strict=True):
            rows = slice(group.begin, group.stop)
            if fits and int(lengths[rows].max()) + group.width <= cache.slots:
                yield _Run(rows, slice(0, group.width), lengths[rows])
                continue
            for row in range(group.begin, group.stop):
                begin, count = int(lengths[row]), int(step.counts[row])
                if count > group.width:
                    continue
                for columns in self._row_pieces(begin, count):
                    yield _Run(slice(row, row + 1), columns, lengths[row : row + 1] + columns.start)

    def _allows_one_run(self, step: Step, group: RowGroup, lengths: NDArray[np.int64]) -> bool:
        rows = slice(group.begin, group.stop)
        end = int(lengths[rows].max()) + group.width
        is_padded = bool((step.counts[rows] != group.width).any())
        spec, positions = self._spec.cache, self._spec.context_length
        if spec.style == "concat":
            # Past tensors have one length for all rows; padding at the end is cut off afterwards.
            allows = bool((lengths[rows] == lengths[group.begin]).all())
        elif spec.is_circular:
            # Padding would overwrite the oldest tokens, and a block that wraps has no causal order.
            window = min(buffer.window for buffer in self._buffer_specs if buffer.window is not None)
            allows = not is_padded and (group.width == 1 or end <= window)
        else:
            allows = True
        return allows and not (is_padded and positions is not None and end > positions)

    def _row_pieces(self, begin: int, count: int) -> Iterator[slice]:
        """A row's tokens in one piece, or from where a circular layer wraps on one by one."""
        windows = [buffer.window for buffer in self._buffer_specs if buffer.window is not None]
        whole = count if not windows else min(count, max(0, min(windows) - begin))
        if whole:
            yield slice(0, whole)
        for column in range(whole, count):
            yield slice(column, column + 1)

    def _execute(self, run: _Run, step: Step, cache: NumpyCache) -> tuple[NDArray[Any], UpdateMode]:
        past = [buffer[run.rows] for buffer in cache.buffers]
        is_concat = self._spec.cache.style == "concat"
        if is_concat:
            num_past = int(run.starts[0])
            past = [spec.between(tensor, 0, num_past) for spec, tensor in zip(self._buffer_specs, past, strict=True)]
        feeds = self._feeds(step.input_ids[run.rows, run.columns], run.starts)
        positions = _asked_positions(run, step)
        if self._selects_logits:
            feeds[LOGITS_POSITIONS] = positions
        feeds |= {tensor.past: array for tensor, array in zip(self._contract.cache_tensors, past, strict=True)}
        try:
            logits, *present = self._loaded().run(feeds, self._outputs)
            if not self._selects_logits:
                logits = np.take_along_axis(logits, positions[:, :, None], axis=1)
            self._check_results(logits, present, past, positions)
        except GRAPH_ERRORS as error:
            raise BackendError(
                f"onnx.reference failed in a step of shape {step.input_ids.shape}: {str(error)[:300]}",
                remedy="Check the model with onnx.checker, or use another backend.",
            ) from error
        if is_concat:
            _append(cache, present, run, self._buffer_specs)
            return logits, "copied"
        in_place = True
        for buffer, new in zip(past, present, strict=True):
            if _address(buffer) != _address(new):
                buffer[...] = new
                in_place = False
        return logits, "in_place" if in_place else "copied"

    def _check_results(
        self,
        logits: NDArray[Any],
        present: list[NDArray[Any]],
        past: list[NDArray[Any]],
        positions: NDArray[np.int64],
    ) -> None:
        """Raises ValueError where the graph gives other shapes than its signature says."""
        expected = (*positions.shape, self._spec.vocab_size)
        if logits.shape != expected:
            raise ValueError(f"the logits {self._contract.logits!r} have the shape {logits.shape}, expected {expected}")
        for tensor, spec, old, new in zip(self._contract.cache_tensors, self._buffer_specs, past, present, strict=True):
            wanted = list(old.shape)
            if self._spec.cache.style == "concat":
                wanted[spec.axis] = new.shape[spec.axis] if new.ndim == old.ndim else -1
            if list(new.shape) != wanted:
                raise ValueError(f"{tensor.present!r} has the shape {new.shape}, its past has {old.shape}")

    def _feeds(self, input_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        batch_size, width = input_ids.shape
        nonpad = starts + width
        if self._buffer_specs[0].window is not None and len({spec.window for spec in self._buffer_specs}) == 1:
            nonpad = np.minimum(nonpad, self._buffer_specs[0].window)
        by_role: dict[str, NDArray[Any]] = {
            "input_ids": input_ids,
            "position_ids": starts[:, None] + np.arange(width),
            "write_indices": starts,
            "nonpad_kv_seqlen": nonpad,
            "attention_mask": np.ones((batch_size, int(starts.max()) + width), np.int64),
        }
        return {
            name: by_role[role].astype(self._contract.input_dtypes[role], copy=False)
            for role, name in self._contract.inputs.items()
        }


def _buffer_specs(contract: GraphContract, spec: ModelSpec) -> tuple[BufferSpec, ...]:
    specs = []
    for tensor in contract.cache_tensors:
        layer = spec.cache.layers[tensor.layer]
        head_dim = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
        is_rank_4 = spec.cache.layout == "bnsh"
        specs.append(
            BufferSpec(
                row_shape=(layer.num_kv_heads, 0, head_dim) if is_rank_4 else (0, layer.num_kv_heads * head_dim),
                axis=2 if is_rank_4 else 1,
                dtype=_DTYPES[layer.dtype],
                num_heads=layer.num_kv_heads,
                window=layer.capacity if layer.mode == "circular" else None,
                is_fixed=layer.capacity is not None,
            )
        )
    return tuple(specs)


def _append(cache: NumpyCache, present: list[NDArray[Any]], run: _Run, specs: tuple[BufferSpec, ...]) -> None:
    """Copies the new tokens of a concat step to the end of the rows."""
    begin = int(run.starts[0])
    end = begin + run.columns.stop - run.columns.start
    for spec, buffer, tensor in zip(specs, cache.buffers, present, strict=True):
        spec.between(buffer[run.rows], begin, end)[...] = spec.between(tensor, begin, end)


def _asked_positions(run: _Run, step: Step) -> NDArray[np.int64]:
    """The columns of a run whose logits are wanted: int64 (rows, K)."""
    counts = step.counts[run.rows]
    width = run.columns.stop - run.columns.start
    if step.logits == "all":
        return np.broadcast_to(np.arange(width), (len(counts), width))
    if step.logits == "last":
        # Rows that do not end in this run get some column; it is not stored.
        last: NDArray[np.int64] = np.clip(counts - 1 - run.columns.start, 0, width - 1)
        return last[:, None]
    return np.zeros((len(counts), 0), np.int64)


def _store_logits(result: NDArray[np.float32], values: NDArray[Any], run: _Run, step: Step) -> None:
    if step.logits == "all":
        result[run.rows, run.columns] = values
    elif step.logits == "last":
        last = step.counts[run.rows] - 1
        ends_here = (last >= run.columns.start) & (last < run.columns.stop)
        result[run.rows][ends_here] = values[ends_here]


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
