# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The buffer of one cache tensor: its shape, and where its rows and positions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from genai_iface.errors import BackendError
from genai_iface.graph import GraphSignature
from genai_iface.types import CacheSpec

__all__ = ["BufferSpec", "address", "allocate", "buffer_specs", "state_shapes"]

_DTYPES: Mapping[str, Any] = MappingProxyType(
    {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}
)


@dataclass(frozen=True, slots=True)
class BufferSpec:
    """The buffer of one cache tensor.

    Attributes:
        num_heads: Hkv, the key/value heads of the layer.
        head_dim: D, the size of one head.
        axis: The sequence axis: 2 for (B, Hkv, C, D), 1 for (B, C, Hkv * D).
        dtype: The element type of the buffer.
        window: Positions of a circular layer; None for a linear one, whose positions follow the rows' lengths.
        is_fixed: Whether the graph names the number of positions, so that it cannot grow.
    """

    num_heads: int
    head_dim: int
    axis: int
    dtype: DTypeLike
    window: int | None
    is_fixed: bool

    def allocate(self, batch_size: int, positions: int) -> NDArray[Any]:
        """Zeros for so many rows and positions; the system commits the memory when it is written."""
        length = positions if self.window is None else self.window
        row = (self.num_heads, length, self.head_dim) if self.axis == 2 else (length, self.num_heads * self.head_dim)
        return np.zeros((batch_size, *row), self.dtype)

    def at(self, rows: slice | NDArray[np.int64], begin: int, end: int) -> Any:
        """The index of the positions ``begin`` .. ``end - 1`` of these rows in a tensor."""
        return (rows, slice(None), slice(begin, end)) if self.axis == 2 else (rows, slice(begin, end))

    def by_head(self, row: NDArray[Any]) -> NDArray[Any]:
        """A row of the buffer as (Hkv, C, D); a view."""
        return row if self.axis == 2 else row.reshape(-1, self.num_heads, self.head_dim).swapaxes(0, 1)


def buffer_specs(signature: GraphSignature) -> tuple[BufferSpec, ...]:
    """One for each cache tensor, in their order."""
    cache, specs = signature.cache, []
    for tensor in signature.cache_tensors:
        layer = cache.layers[tensor.layer]
        specs.append(
            BufferSpec(
                num_heads=layer.num_kv_heads,
                head_dim=layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim,
                axis=2 if cache.layout == "bnsh" else 1,
                dtype=_DTYPES[layer.dtype],
                window=layer.capacity if layer.mode == "circular" else None,
                is_fixed=layer.capacity is not None,
            )
        )
    return tuple(specs)


def allocate(specs: Sequence[BufferSpec], batch_size: int, positions: int) -> list[NDArray[Any]]:
    """Zeros for all cache tensors.

    Raises:
        BackendError: Out of memory.
    """
    try:
        return [spec.allocate(batch_size, positions) for spec in specs]
    except MemoryError as error:
        raise BackendError(
            f"No memory for a cache of {batch_size} rows with {positions} positions",
            remedy="Ask for a smaller batch or capacity, generate less, or close other caches.",
        ) from error


def state_shapes(cache: CacheSpec) -> tuple[tuple[tuple[int, ...], DTypeLike], ...]:
    """Shape of one row and element type of each state, as ``RowStates`` takes them."""
    return tuple((state.shape, _DTYPES[state.dtype]) for state in cache.states)


def address(array: NDArray[Any]) -> int:
    """Where the memory of an array begins."""
    return int(array.__array_interface__["data"][0])
