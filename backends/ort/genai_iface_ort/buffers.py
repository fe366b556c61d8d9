# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The buffer of one cache tensor in the processor's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from genai_iface.graph import GraphSignature
from genai_iface.types import CacheSpec
from genai_iface_ort.runtime import ORT_TYPES

__all__ = ["BufferSpec", "HostBuffer", "buffer_specs", "state_shapes"]

# NumPy has no bfloat16; its bits travel as unsigned integers and ONNX Runtime is told the real type.
_STORAGE: dict[str, DTypeLike] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}


@dataclass(frozen=True, slots=True)
class BufferSpec:
    """What the buffer of one cache tensor looks like.

    Attributes:
        past: The graph input.
        present: The graph output.
        num_heads: Hkv, the key/value heads of the layer.
        head_dim: D, the size of one head.
        axis: The sequence axis: 2 for (B, Hkv, C, D), 1 for (B, C, Hkv * D).
        dtype: Element type by its ONNX name.
        window: Positions of a circular layer, None for a linear one.
        fixed: Positions if the graph fixes them, window included; None where any number will do.
    """

    past: str
    present: str
    num_heads: int
    head_dim: int
    axis: int
    dtype: str
    window: int | None
    fixed: int | None

    @property
    def storage(self) -> np.dtype[Any]:
        """The NumPy type that holds the elements."""
        return np.dtype(_STORAGE[self.dtype])

    @property
    def onnx_type(self) -> int:
        """The element type's ONNX number."""
        return ORT_TYPES[self.dtype]

    @property
    def blocks(self) -> int:
        """Contiguous blocks per row: the positions of one block follow each other."""
        return self.num_heads if self.axis == 2 else 1

    @property
    def position_size(self) -> int:
        """Elements of one position within a block."""
        return self.head_dim if self.axis == 2 else self.num_heads * self.head_dim

    @property
    def position_nbytes(self) -> int:
        """Bytes of one position of one row over all heads."""
        return self.num_heads * self.head_dim * self.storage.itemsize

    def shape(self, batch_size: int, num_positions: int) -> tuple[int, ...]:
        """The tensor's shape."""
        if self.axis == 2:
            return (batch_size, self.num_heads, num_positions, self.head_dim)
        return (batch_size, num_positions, self.num_heads * self.head_dim)

    def num_positions(self, wanted: int) -> int:
        """The positions of this buffer where the linear layers have ``wanted``."""
        return wanted if self.fixed is None else self.fixed

    def typed(self, tokens: NDArray[Any], /) -> NDArray[Any]:
        """The same bits in the type that the tensor has."""
        return tokens.view(ml_dtypes.bfloat16) if self.dtype == "bfloat16" else tokens

    def by_head(self, tokens: NDArray[Any], /) -> NDArray[Any]:
        """Turns (blocks, L, position_size) into (Hkv, L, D)."""
        if self.axis == 2:
            return tokens
        return np.ascontiguousarray(tokens.reshape(-1, self.num_heads, self.head_dim).swapaxes(0, 1))

    def by_block(self, tokens: NDArray[Any], /) -> NDArray[Any]:
        """The inverse of ``by_head``."""
        if self.axis == 2:
            return tokens
        return np.ascontiguousarray(tokens.swapaxes(0, 1)).reshape(1, -1, self.num_heads * self.head_dim)


def buffer_specs(signature: GraphSignature) -> tuple[BufferSpec, ...]:
    """The specs of all cache tensors, in the order of the signature."""
    specs = []
    for tensor in signature.cache_tensors:
        layer = signature.cache.layers[tensor.layer]
        specs.append(
            BufferSpec(
                past=tensor.past,
                present=tensor.present,
                num_heads=layer.num_kv_heads,
                head_dim=layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim,
                axis=2 if signature.cache.layout == "bnsh" else 1,
                dtype=layer.dtype,
                window=layer.capacity if layer.mode == "circular" else None,
                fixed=layer.capacity,
            )
        )
    return tuple(specs)


def state_shapes(cache: CacheSpec) -> tuple[tuple[tuple[int, ...], DTypeLike], ...]:
    """Shape of one row and element type of each state, as ``RowStates`` takes them."""
    return tuple((state.shape, _STORAGE[state.dtype]) for state in cache.states)


class HostBuffer:
    """Flat memory and the tensor that lies in its front part.

    The tensor can get more or fewer positions within the same memory, so shrinking and undoing a growth
    allocate nothing.

    Args:
        spec: What the tensor looks like.
        rows: B, the rows of the cache.
        num_positions: C, the positions of each row.

    Raises:
        MemoryError: There is not enough memory for it.
    """

    def __init__(self, spec: BufferSpec, rows: int, num_positions: int) -> None:
        self.spec = spec
        self.rows = rows
        self.num_positions = num_positions
        self._flat: NDArray[Any] = np.zeros(rows * spec.blocks * num_positions * spec.position_size, spec.storage)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self._flat.nbytes

    @property
    def row_nbytes(self) -> int:
        """Bytes from one row to the next."""
        return self.num_positions * self.spec.position_nbytes

    @property
    def address(self) -> int:
        """Address of the first element."""
        return int(self._flat.ctypes.data)

    @property
    def blocks(self) -> NDArray[Any]:
        """The tensor as (rows, blocks, positions, position_size); a view."""
        return self._view(self.rows, self.num_positions)

    def _view(self, rows: int, num_positions: int) -> NDArray[Any]:
        shape = (rows, self.spec.blocks, num_positions, self.spec.position_size)
        return self._flat[: int(np.prod(shape))].reshape(shape)

    def fits(self, rows: int, num_positions: int) -> bool:
        """Whether the memory is large enough for such a tensor."""
        return rows * self.spec.blocks * num_positions * self.spec.position_size <= self._flat.size

    def resize(self, num_positions: int, used: int) -> None:
        """Changes the number of positions and keeps the first ``used`` of each row.

        Raises:
            MemoryError: The memory must grow and cannot; nothing has changed.
        """
        if num_positions == self.num_positions:
            return
        if not self.fits(self.rows, num_positions):
            larger = HostBuffer(self.spec, self.rows, num_positions)
            larger.blocks[:, :, :used] = self.blocks[:, :, :used]
            self._flat, self.num_positions = larger._flat, num_positions
            return
        size = self.spec.position_size
        count = self.rows * self.spec.blocks
        # Blocks move within the memory, so those that others would overwrite go first.
        order = range(count) if num_positions < self.num_positions else range(count - 1, -1, -1)
        for index in order:
            begin, target = index * self.num_positions * size, index * num_positions * size
            self._flat[target : target + used * size] = self._flat[begin : begin + used * size]
        self.num_positions = num_positions

    def copy(self, used: int) -> HostBuffer:
        """An independent copy of the first ``used`` positions of each row."""
        twin = HostBuffer(self.spec, self.rows, self.num_positions)
        twin.blocks[:, :, :used] = self.blocks[:, :, :used]
        return twin

    def taken(self, indices: NDArray[np.int64], used: int) -> HostBuffer:
        """A new buffer whose row i is row ``indices[i]``."""
        twin = HostBuffer(self.spec, len(indices), self.num_positions)
        # Row by row: fancy indexing of a view would copy all of it first.
        for target, source in enumerate(indices):
            twin.blocks[target, :, :used] = self.blocks[source, :, :used]
        return twin

    def move_rows(
        self, targets: NDArray[np.int64], sources: NDArray[np.int64], rows: int, used: int, scratch: NDArray[np.uint8]
    ) -> None:
        """Row ``targets[i]`` becomes what row ``sources[i]`` was; allocates nothing.

        Args:
            targets: int64 (K,), the rows that are written.
            sources: int64 (K,), the row that each of them becomes.
            rows: The number of rows afterwards, not more than before.
            used: Positions that matter.
            scratch: Memory for the content of K rows.
        """
        blocks = self.blocks[:, :, :used]
        shape = (len(sources), *blocks.shape[1:])
        held = scratch[: int(np.prod(shape)) * self._flat.itemsize].view(self._flat.dtype).reshape(shape)
        for index, source in enumerate(sources):
            held[index] = blocks[source]
        for index, target in enumerate(targets):
            blocks[target] = held[index]
        self.rows = rows

    def read(self, row: int, order: NDArray[np.int64]) -> NDArray[Any]:
        """These positions of one row, as (Hkv, L, D); a copy."""
        return self.spec.by_head(self.blocks[row][:, order])

    def write(self, row: int, order: NDArray[np.int64], tokens: NDArray[Any]) -> None:
        """Sets these positions of one row from (Hkv, L, D)."""
        self.blocks[row][:, order] = self.spec.by_block(tokens)
