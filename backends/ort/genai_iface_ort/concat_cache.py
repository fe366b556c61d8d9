# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of the style concat: past tensors that each step replaces by longer ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import RowLengths, RowStates
from genai_iface.display import Displayed, cache_facts
from genai_iface.types import CacheSpec, UpdateMode
from genai_iface_ort.buffers import BufferSpec
from genai_iface_ort.runtime import HOST, DeviceIndex
from genai_iface_ort.steps.binding import view_of

__all__ = ["OrtConcatCache", "Segment"]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The cache tensors that one run gave, for the rows that took part. Never written to again.

    Attributes:
        tensors: One per cache tensor, each with ``num_positions`` positions per row.
        rows: Rows in them.
        num_positions: Tokens per row.
        nbytes: Bytes of all of them.
    """

    tensors: tuple[onnxruntime.OrtValue, ...]
    rows: int
    num_positions: int
    nbytes: int


class OrtConcatCache(Displayed):
    """Implements ``KVCache``, ``SupportsFork``, ``SupportsInspect`` and ``SupportsCheckpoint``.

    A row lies in a row of a segment, up to its length. Segments are immutable, so rewinding, reordering and
    forking move no data; a step that needs another selection of rows copies it then.

    Args:
        specs: One per cache tensor, two per layer, the key first.
        rows: The rows' lengths, all 0.
        spec: Of the model's cache.
        device: Where the tensors are.

    Attributes:
        rows: The rows' lengths.
        bytes_per_token: Bytes of one token of one row over all layers.
        bytes_per_row: Bytes of the states of one row.
    """

    def __init__(
        self, specs: tuple[BufferSpec, ...], rows: RowLengths, /, *, spec: CacheSpec, device: DeviceIndex = HOST
    ) -> None:
        self.rows = rows
        self.bytes_per_token, self.bytes_per_row = spec.bytes_per_token, spec.bytes_per_row
        self._specs = specs
        # For each row, the segment and the row in it; None for an empty row.
        self._sources: list[tuple[Segment, int] | None] = [None] * rows.batch_size
        self._device = device

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return cache_facts(self)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.rows.batch_size

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self.rows.capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 (B,), a copy."""
        return self.rows.lengths

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that rows lie in, of states and checkpoints."""
        segments = {source[0] for source in self._sources if source is not None}
        return sum(segment.nbytes for segment in segments) + self.rows.state_nbytes

    @property
    def states(self) -> RowStates | None:
        """The states of the rows, None for a model of attention alone."""
        states = self.rows.states
        return states if isinstance(states, RowStates) else None

    @property
    def update_mode(self) -> UpdateMode:
        """Always "copied": a step makes new tensors."""
        return "copied"

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed; without states, for every legal argument."""
        return self.rows.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows."""
        self.rows.rewind_to(lengths)
        self._drop_empty()

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        wanted = self.rows.check_reorder(indices)
        self._sources = [self._sources[index] for index in wanted]
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.rows.reset(rows)
        self._drop_empty()

    def close(self) -> None:
        """Frees the tensors."""
        self.rows.close()
        self._sources = [None] * self.batch_size

    def fork(self) -> OrtConcatCache:
        """An independent copy; the tensors are shared as long as neither changes."""
        twin = OrtConcatCache.__new__(OrtConcatCache)
        twin.__dict__.update(self.__dict__, rows=self.rows.fork(), _sources=list(self._sources))
        return twin

    def checkpoint(self, rows: ArrayLike | None = None, /) -> None:
        """Keeps the states of rows at their present lengths."""
        self.rows.checkpoint(rows)

    def checkpoints(self, row: int, /) -> tuple[int, ...]:
        """The lengths of a row that were kept."""
        return self.rows.checkpoints(row)

    def drop(self, row: int, length: int | None = None, /) -> None:
        """Forgets the checkpoint of a row at a length, or all of the row."""
        self.rows.drop(row, length)

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D)."""
        length = self.rows.check_read(layer, row, len(self._specs) // 2)
        key, value = (
            spec.typed(spec.by_head(self._tokens(index, row, length)).copy())
            for index, spec in list(enumerate(self._specs))[2 * layer : 2 * layer + 2]
        )
        return key, value

    # What the model uses.

    def past(self, rows: list[int], length: int, /) -> tuple[onnxruntime.OrtValue, ...]:
        """The past of these rows, all of this length, as tensors to bind."""
        sources = [self._sources[row] for row in rows]
        first = sources[0]
        if first is not None and (first[0].num_positions, first[0].rows) == (length, len(rows)):
            segment = first[0]
            if sources == [(segment, index) for index in range(len(rows))]:
                return segment.tensors
        return tuple(self._gathered(index, rows, length) for index in range(len(self._specs)))

    def replace(self, rows: list[int], present: tuple[onnxruntime.OrtValue, ...], num_positions: int, /) -> None:
        """Puts these rows into the tensors that a run gave."""
        nbytes = sum(tensor.tensor_size_in_bytes() for tensor in present)
        segment = Segment(present, len(rows), num_positions, nbytes)
        for index, row in enumerate(rows):
            self._sources[row] = (segment, index)

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per tensor, as ``read`` gives them."""
        if length:
            present = []
            for spec, part in zip(self._specs, tokens, strict=True):
                array = np.ascontiguousarray(spec.by_block(part.view(spec.storage))).reshape(spec.shape(1, length))
                present.append(self._value(array, spec))
            self.replace([row], tuple(present), length)
        self.rows.restore(row, length)

    # Internal.

    def _drop_empty(self) -> None:
        lengths = self.lengths.tolist()
        self._sources = [source if length else None for source, length in zip(self._sources, lengths, strict=True)]

    def _tokens(self, index: int, row: int, length: int) -> NDArray[Any]:
        """The tokens of a row, (blocks, L, position_size); a view."""
        spec, source = self._specs[index], self._sources[row]
        if source is None:
            return np.zeros((spec.blocks, 0, spec.position_size), spec.storage)
        segment, at = source
        every = view_of(segment.tensors[index], spec.storage)
        return every.reshape(segment.rows, spec.blocks, segment.num_positions, spec.position_size)[at, :, :length]

    def _gathered(self, index: int, rows: list[int], length: int) -> onnxruntime.OrtValue:
        spec = self._specs[index]
        array = np.empty((len(rows), spec.blocks, length, spec.position_size), spec.storage)
        for target, row in enumerate(rows):
            array[target] = self._tokens(index, row, length)
        return self._value(array.reshape(spec.shape(len(rows), length)), spec)

    def _value(self, array: NDArray[Any], spec: BufferSpec) -> onnxruntime.OrtValue:
        """On the processor, an OrtValue over the array's memory, which it keeps alive; elsewhere a copy."""
        if self._device == HOST:
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, spec.onnx_type)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, *self._device)
