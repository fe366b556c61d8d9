# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of the style concat: past tensors that each step replaces by longer ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import check_indices, check_lengths, check_rows
from genai_iface.errors import InvalidInputError
from genai_iface.types import UpdateMode
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


class OrtConcatCache:
    """Implements ``KVCache``, ``SupportsFork`` and ``SupportsInspect``.

    A row is a place in a segment and a length. Segments are immutable, so rewinding, reordering and
    forking move no data; a step that needs another selection of rows copies it then.

    Args:
        specs: One per cache tensor, two per layer, the key first.
        batch_size: B.
        capacity: Most tokens per row.
        bytes_per_token: As the model's spec says.
        device: Where the tensors are.
    """

    def __init__(
        self,
        specs: tuple[BufferSpec, ...],
        /,
        *,
        batch_size: int,
        capacity: int,
        bytes_per_token: int,
        device: DeviceIndex = HOST,
    ) -> None:
        self._specs = specs
        self._capacity = capacity
        self._bytes_per_token = bytes_per_token
        self._lengths = np.zeros(batch_size, np.int64)
        self._places: list[tuple[Segment, int] | None] = [None] * batch_size
        self._closed = False
        self._device = device

    # What the protocol asks for.

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self._capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 (B,), a copy."""
        return self._lengths.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that rows lie in."""
        return sum(segment.nbytes for segment in {place[0] for place in self._places if place is not None})

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token of one row over all layers."""
        return self._bytes_per_token

    @property
    def update_mode(self) -> UpdateMode:
        """Always "copied": a step makes new tensors."""
        return "copied"

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """True for every legal argument."""
        check_lengths(lengths, self._lengths)
        return True

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows."""
        self.check_open()
        self._lengths = check_lengths(lengths, self._lengths)
        self._drop_empty()

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        self.check_open()
        wanted = check_indices(indices, self.batch_size)
        self._places = [self._places[index] for index in wanted]
        self._lengths = self._lengths[wanted]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.check_open()
        self._lengths[check_rows(rows, self.batch_size)] = 0
        self._drop_empty()

    def close(self) -> None:
        """Frees the tensors."""
        self._places = [None] * len(self._places)
        self._closed = True

    def fork(self) -> OrtConcatCache:
        """An independent copy; the tensors are shared as long as neither changes."""
        self.check_open()
        twin = OrtConcatCache.__new__(OrtConcatCache)
        twin.__dict__.update(self.__dict__)
        twin._lengths, twin._places = self._lengths.copy(), list(self._places)
        return twin

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D)."""
        self.check_open()
        if not 0 <= layer < len(self._specs) // 2 or not 0 <= row < self.batch_size:
            raise InvalidInputError(
                f"layer {layer}, row {row} is not in a cache of {len(self._specs) // 2} layers, {self.batch_size} rows",
                remedy="Count both from 0.",
            )
        length = int(self._lengths[row])
        parts = []
        for index in (2 * layer, 2 * layer + 1):
            spec = self._specs[index]
            tokens = spec.by_head(self._tokens(index, row, length)).copy()
            parts.append(tokens.view(ml_dtypes.bfloat16) if spec.dtype == "bfloat16" else tokens)
        return parts[0], parts[1]

    # What the model uses.

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The tensors' specs; the very object of the model that made the cache."""
        return self._specs

    def check_open(self) -> None:
        """Raises InvalidInputError if the cache is closed."""
        if self._closed:
            raise InvalidInputError("The cache is closed", remedy="Create another with model.create_cache().")

    def past(self, rows: list[int], length: int, /) -> tuple[onnxruntime.OrtValue, ...]:
        """The past of these rows, all of this length, as tensors to bind."""
        places = [self._places[row] for row in rows]
        first = places[0]
        if first is not None and (first[0].num_positions, first[0].rows) == (length, len(rows)):
            segment = first[0]
            if places == [(segment, index) for index in range(len(rows))]:
                return segment.tensors
        return tuple(self._gathered(index, rows, length) for index in range(len(self._specs)))

    def replace(self, rows: list[int], present: tuple[onnxruntime.OrtValue, ...], num_positions: int, /) -> None:
        """Puts these rows into the tensors that a run gave."""
        nbytes = sum(tensor.tensor_size_in_bytes() for tensor in present)
        segment = Segment(present, len(rows), num_positions, nbytes)
        for index, row in enumerate(rows):
            self._places[row] = (segment, index)

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per tensor, as ``read`` gives them."""
        if length:
            present = []
            for spec, part in zip(self._specs, tokens, strict=True):
                array = np.ascontiguousarray(spec.by_block(part.view(spec.storage))).reshape(spec.shape(1, length))
                present.append(self._value(array, spec))
            self.replace([row], tuple(present), length)
        self._lengths[row] = length

    def advance(self, counts: NDArray[np.int64], /) -> None:
        """Books a finished step."""
        self._lengths = self._lengths + counts

    # Internal.

    def _drop_empty(self) -> None:
        self._places = [
            place if length else None for place, length in zip(self._places, self._lengths.tolist(), strict=True)
        ]

    def _tokens(self, index: int, row: int, length: int) -> NDArray[Any]:
        """The tokens of a row, (blocks, L, position_size); a view."""
        spec, place = self._specs[index], self._places[row]
        if place is None:
            return np.zeros((spec.blocks, 0, spec.position_size), spec.storage)
        segment, at = place
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
