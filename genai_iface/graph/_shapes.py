# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The sizes of a cache tensor: heads, head size, capacity, type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import onnx_ir as ir

from genai_iface.graph._attention import OPERATORS, AttentionUse, Kind
from genai_iface.graph._walk import (
    attribute,
    constant_ints,
    dim,
    dtype_name,
    input_at,
    is_op,
    op,
    rank,
    static_dim,
    unsupported,
    width,
)
from genai_iface.types import CacheLayout, CacheMode, CacheStyle, DType, LayerCacheSpec

__all__ = ["FoundCache", "layer_spec"]

# Positions and sizes are int32 in attention operators.
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class FoundCache:
    """One cache tensor as found in the graph.

    Attributes:
        style: How it is kept.
        kind: Keys or values.
        past: The graph input.
        present: The graph output.
        axis: The sequence axis, counted from the front.
        mode: Linear or circular.
        use: The attention that reads it.
        reason: The edge that shows it.
    """

    style: CacheStyle
    kind: Kind
    past: ir.Value
    present: ir.Value
    axis: int
    mode: CacheMode
    use: AttentionUse
    reason: str


def layer_spec(index: int, key: FoundCache, value: FoundCache, layout: CacheLayout) -> LayerCacheSpec:
    """Sizes, type, mode and capacity of one layer.

    Args:
        index: The layer, for messages.
        key: The cache tensor of its keys.
        value: The cache tensor of its values.
        layout: The layout of both.

    Raises:
        UnsupportedModelError: A size is not in the graph, or keys and values do not fit together.
    """
    key_heads, key_size = _heads(key, layout)
    value_heads, value_size = _heads(value, layout)
    if key_heads != value_heads:
        raise unsupported(f"Layer {index} has {key_heads} key and {value_heads} value heads, expected as many")
    if key.mode != value.mode:
        raise unsupported(f"Layer {index} keeps keys {key.mode} and values {value.mode}, expected one mode")
    dtypes = {dtype_name(tensor) for tensor in (key.past, key.present, value.past, value.present)} - {"unknown"}
    if len(dtypes) != 1 or not dtypes <= set(get_args(DType)):
        raise unsupported(
            f"The cache of layer {index} ({key.past.name!r}) has the element type "
            f"{' and '.join(sorted(dtypes)) or 'unknown'}, "
            f"expected one of {', '.join(get_args(DType))}"
        )
    capacities = [_capacity(tensor) for tensor in (key, value)]
    if capacities[0] != capacities[1]:
        raise unsupported(f"Layer {index} has room for {capacities[0]} keys and {capacities[1]} values, expected equal")
    return LayerCacheSpec(
        num_kv_heads=key_heads,
        key_head_dim=key_size,
        value_head_dim=value_size,
        dtype=cast(DType, dtypes.pop()),
        mode=key.mode,
        capacity=capacities[0],
    )


def _capacity(tensor: FoundCache) -> int | None:
    fixed = static_dim(tensor.past, tensor.axis)
    if tensor.style == "concat":
        if fixed is not None:
            raise unsupported(
                f"The past {tensor.past.name!r} has the fixed length {fixed}, expected one that grows",
                "Make that dimension symbolic, or export the model with dynamic shapes.",
            )
        return None
    present = static_dim(tensor.present, tensor.axis)
    capacity = present if fixed is None else fixed
    if capacity is not None and not 0 < capacity <= _LARGEST:
        raise unsupported(f"The cache {tensor.past.name!r} has the capacity {capacity}, expected 1 to {_LARGEST}")
    if fixed is not None and present is not None and fixed != present:
        raise unsupported(f"{tensor.past.name!r} has {fixed} positions and {tensor.present.name!r} has {present}")
    return capacity


def _heads(tensor: FoundCache, layout: CacheLayout) -> tuple[int, int]:
    """Number of heads and head size."""
    if layout == "bnsh":
        heads, size = _fixed(tensor, 1), _fixed(tensor, 3)
        heads = heads or _attribute_heads(tensor.use)
        size = size or _operator_size(tensor.use, heads)
    else:
        whole = _fixed(tensor, 2)
        heads = _attribute_heads(tensor.use) or _reshape_heads(tensor.use, whole)
        if whole and heads and whole % heads:
            raise unsupported(f"{tensor.past.name!r} is {whole} wide, which {heads} heads do not divide")
        size = whole // heads if whole and heads else None
    if heads and size and (heads < 0 or size < 0 or max(heads, size) > _LARGEST):
        raise unsupported(
            f"{tensor.past.name!r} has {heads} heads of size {size}, expected numbers from 1 to {_LARGEST}"
        )
    if not heads or not size:
        shape = ", ".join(dim(tensor.past, axis) for axis in range(rank(tensor.past) or 0))
        raise unsupported(
            f"The number of heads and the head size of {tensor.past.name!r} are not in the graph: "
            f"its shape is ({shape})",
            "Export the model with fixed sizes for heads; only batch and sequence may be symbolic.",
        )
    return heads, size


def _fixed(tensor: FoundCache, axis: int) -> int | None:
    size = static_dim(tensor.past, axis)
    return static_dim(tensor.present, axis) if size is None else size


def _attribute_heads(use: AttentionUse) -> int | None:
    operator = OPERATORS.get(op(use.reader))
    heads = attribute(use.reader, operator.heads, 0) if operator is not None else 0
    return heads if heads > 0 else None


def _operator_size(use: AttentionUse, heads: int | None) -> int | None:
    """The head size from the width of an attention operator's rank-3 input."""
    operator = OPERATORS.get(op(use.reader))
    if operator is None or not heads:
        return None
    fresh = input_at(use.reader, operator.key if use.kind == "key" else operator.value)
    packed = input_at(use.reader, 0)
    if fresh is not None and rank(fresh) in (3, None):
        size, parts = width(fresh), heads
    elif fresh is None and packed is not None:
        # Queries, keys and values side by side.
        size, parts = width(packed), attribute(use.reader, "num_heads", 0) + 2 * heads
    else:
        return None
    return size // parts if size and size % parts == 0 else None


def _reshape_heads(use: AttentionUse, whole: int | None) -> int | None:
    """From a Reshape to (B, C, Hkv, D) on the way to rank-4 attention."""
    for node in use.path:
        target = constant_ints(input_at(node, 1)) if is_op(node, "Reshape") else None
        if target is not None and len(target) == 4 and whole:
            heads, size = target[2:]
            if size > 0 and whole % size == 0 and heads in (-1, whole // size):
                return whole // size
            if heads > 0:
                return heads
    return None
