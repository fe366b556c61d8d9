# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GroupQueryAttention -> norms, RotaryEmbedding, TensorScatter and Attention with nonpad_kv_seqlen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from genai_iface.graph._edit import constant_tensor, copy_type
from genai_iface.graph._walk import dim, static_dim
from genai_iface.transform.contrib.mappings.rotary import rotated
from genai_iface.transform.contrib.site import Site
from genai_iface.types import LayerCacheSpec

__all__ = ["StepInputs", "grouped_query"]

_QUANTIZED = ("PER_TENSOR", "PER_CHANNEL")


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What drives a cache of fixed capacity.

    Attributes:
        write_indices: int64 (B,), where each row's new tokens go.
        nonpad: int64 (B,), valid positions after the write.
        positions: int64 (B, S), those of the new tokens.
    """

    write_indices: ir.Value
    nonpad: ir.Value
    positions: ir.Value


def grouped_query(site: Site, layer: LayerCacheSpec, step: StepInputs) -> tuple[ir.Value, ir.Value, int | None]:
    """Replaces one node and returns the keys and values that it writes, and its window.

    seqlens_k, total_sequence_length and query_seqlens say what write_indices and nonpad_kv_seqlen say.
    """
    _check(site)
    heads, kv_heads = site.integer("num_heads"), site.integer("kv_num_heads")
    query, key, value = _projections(site, heads, kv_heads, layer.key_head_dim)
    query, key = _prepared(site, query, heads, layer, step, 14), _prepared(site, key, kv_heads, layer, step, 15)
    value = _apart(site, value, kv_heads, layer.value_head_dim)
    caches: list[tuple[ir.Value, ir.Value | None]] = []
    for index, update in ((3, key), (4, value)):
        scale = _scale(site, index + 9, layer)
        new = update if scale is None else _rounded(site, update, scale)
        past = site.required(index)
        cache = site.add("TensorScatter", past, new, step.write_indices, axis=2, mode="linear")
        copy_type(past, cache)
        cache.shape = past.shape
        caches.append((cache, scale))
    keys, values = (_widened(site, cache, scale, query) for cache, scale in caches)
    window = site.integer("local_window_size", -1)
    nonpad, sink = step.nonpad, _sink(site, query, heads)
    past = site.required(3)
    if sink is not None:
        # One more key in front, a vector of zeros: the mask makes its score the sink, its value adds nothing.
        front = site.ints(0, 0, 1, 0, 0, 0, 0, 0)
        keys, values = (site.add("Pad", cache, front) for cache in (keys, values))
        nonpad = site.add("Add", nonpad, site.index(1))
    mask = _mask(site, query, past, step, window=window, sink=sink)
    attributes: dict[str, int | float] = {"is_causal": 1}
    if site.real("scale"):
        attributes["scale"] = site.real("scale")
    if site.real("softcap") > 0:
        attributes["softcap"] = site.real("softcap")
    mixed = site.add("Attention", query, keys, values, mask, None, None, nonpad, **attributes)
    mixed = site.add("Transpose", mixed, perm=[0, 2, 1, 3])
    result = site.add("Reshape", mixed, site.ints(0, 0, heads * layer.value_head_dim))
    result.shape = site.node.outputs[0].shape
    site.give(result)
    return caches[0][0], caches[1][0], window if window > 0 else None


def _check(site: Site) -> None:
    if not site.integer("causal", 1):
        raise site.refuse("is not causal, which a cache cannot serve")
    site.no_output(3, what="its scores")
    if site.integer("kv_cache_bit_width", 8) not in (0, 8):
        raise site.refuse("keeps its cache in 4 bits, which TensorScatter has no type for")
    if (site.input(14) is None) != (site.input(15) is None):
        raise site.refuse("normalizes only one of queries and keys")


def _projections(site: Site, heads: int, kv_heads: int, size: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    query, key, value = site.required(0), site.input(1), site.input(2)
    if key is not None and value is not None:
        return query, key, value
    wide = site.last(query)
    if wide not in (None, (heads + 2 * kv_heads) * size) or key is not None or value is not None:
        raise site.refuse(f"has no keys or values, and queries {wide} wide, expected all three side by side")
    sizes = site.ints(heads * size, kv_heads * size, kv_heads * size)
    query, key, value = site.several("Split", 3, query, sizes, axis=-1)
    return query, key, value


def _prepared(
    site: Site, x: ir.Value, heads: int, layer: LayerCacheSpec, step: StepInputs, norm_index: int
) -> ir.Value:
    """(B, heads, S, D), normalized head by head and rotated, where the operator does so."""
    weight, size = site.input(norm_index), layer.key_head_dim
    x = _apart(site, x, heads, size)
    if weight is not None:
        name = "q_norm_epsilon" if norm_index == 14 else "k_norm_epsilon"
        epsilon = site.real(name) or site.real("qk_norm_epsilon", 1e-6)
        x = site.add("RMSNormalization", x, weight, axis=-1, epsilon=epsilon)
    if not site.integer("do_rotary"):
        return x
    cos, sin = site.required(7), site.required(8)
    columns = static_dim(cos, -1)
    if columns is None:
        raise site.refuse(f"reads {cos.name!r}, whose number of columns is not in the graph")
    return rotated(
        site,
        x,
        cos,
        sin,
        site.input(9) or step.positions,
        heads=0,
        partial=2 * columns if 2 * columns < size else 0,
        interleaved=site.integer("rotary_interleaved"),
    )


def _apart(site: Site, flat: ir.Value, heads: int, size: int) -> ir.Value:
    """(B, S, H * D) as (B, H, S, D)."""
    return site.add("Transpose", site.add("Reshape", flat, site.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])


# Caches of 8-bit integers.


def _scale(site: Site, index: int, layer: LayerCacheSpec) -> ir.Value | None:
    """The factor of an int8 cache, (1, 1 or Hkv, 1, 1 or D); None for a cache of floats."""
    kind = site.text("k_quant_type" if index == 12 else "v_quant_type", "NONE")
    given = site.input(index)
    if layer.dtype != "int8":
        if kind in _QUANTIZED:
            raise site.refuse(f"quantizes a cache of {layer.dtype}, expected int8")
        return None
    if kind not in _QUANTIZED or given is None:
        raise site.refuse(f"has an int8 cache without scales (quantization type {kind!r})")
    tensor = constant_tensor(given)
    if tensor is None:
        raise site.refuse(f"computes the scales of its cache in each step ({given.name!r}), expected constants")
    heads, size = layer.num_kv_heads, layer.key_head_dim
    shape = (1, 1, 1, 1) if tensor.size == 1 else (1, heads, 1, size)
    if tensor.size not in (1, heads * size):
        raise site.refuse(f"has {tensor.size} scales for its cache, expected 1 or {heads * size}")
    return site.edit.weight(str(given.name), ir.Tensor(tensor.numpy().reshape(shape).astype(np.float32)))


def _rounded(site: Site, update: ir.Value, scale: ir.Value) -> ir.Value:
    wide = site.add("Cast", update, to=int(ir.DataType.FLOAT))
    steps = site.add("Round", site.add("Div", wide, scale))
    kept = site.add("Clip", steps, site.scalar(-128.0, scale), site.scalar(127.0, scale))
    return site.add("Cast", kept, to=int(ir.DataType.INT8))


def _widened(site: Site, cache: ir.Value, scale: ir.Value | None, like: ir.Value) -> ir.Value:
    if scale is None:
        return cache
    wide = site.add("Mul", site.add("Cast", cache, to=int(ir.DataType.FLOAT)), scale)
    dtype = site.float_type(like)
    return wide if dtype == ir.DataType.FLOAT else site.add("Cast", wide, to=int(dtype))


# Masks: windows, sinks, biases.


def _sink(site: Site, query: ir.Value, heads: int) -> ir.Value | None:
    """(1, H, 1, 1), what is added to the softmax's denominator, as a score."""
    given = site.input(11)
    if given is not None:
        return site.add("Reshape", given, site.ints(1, heads, 1, 1))
    if site.integer("smooth_softmax") != 1:
        return None
    return site.add("Reshape", site.scalar(0.0, query), site.ints(1, 1, 1, 1))


def _mask(
    site: Site, query: ir.Value, past: ir.Value, step: StepInputs, *, window: int, sink: ir.Value | None
) -> ir.Value | None:
    """What hides keys or adds to scores beyond is_causal: bool or float, (B or 1, H or 1, S or 1, C)."""
    visible = _window(site, past, step, window, extra=sink is not None) if window > 0 else None
    bias = site.input(10)
    if bias is not None:
        bias = _padded(site, bias, past, extra=sink is not None)
    if sink is not None:
        first = _keys(site, past, extra=True, compare="Equal", other=site.index(0))
        column = site.add("Where", first, sink, site.scalar(0.0, sink))
        bias = column if bias is None else site.add("Add", bias, column)
    if bias is None:
        return visible
    if visible is not None:
        return site.add("Where", visible, bias, site.scalar(-np.inf, query))
    # ONNX Runtime's Attention wants a row of the mask for each query.
    ones = site.ints(1, 1)
    return site.add("Expand", bias, site.add("Concat", ones, site.length(query, 2), site.ints(1), axis=0))


def _window(site: Site, past: ir.Value, step: StepInputs, window: int, *, extra: bool) -> ir.Value:
    """Bool (B, 1, S, C): key j is within the window of the query at position p, p - window < j."""
    key = ("window", window, dim(past, 2), extra)
    if key not in site.scope.made:
        queries = site.add("Unsqueeze", step.positions, site.ints(1, 3))
        # With a key in front, key j lies at place j + 1.
        oldest = site.add("Sub", queries, site.index(window - 1 if extra else window))
        visible = _keys(site, past, extra=extra, compare="Greater", other=oldest)
        if extra:
            first = _keys(site, past, extra=True, compare="Equal", other=site.index(0))
            visible = site.add("Or", visible, first)
        site.scope.made[key] = visible
    made: ir.Value = site.scope.made[key]
    return made


def _keys(site: Site, past: ir.Value, *, extra: bool, compare: str, other: ir.Value) -> ir.Value:
    """Compares the places of the keys with something."""
    key = ("places", dim(past, 2), extra)
    if key not in site.scope.made:
        length = site.add("Squeeze", site.length(past, 2))
        if extra:
            length = site.add("Add", length, site.index(1))
        site.scope.made[key] = site.add("Range", site.index(0), length, site.index(1))
    return site.add(compare, site.scope.made[key], other)


def _padded(site: Site, bias: ir.Value, past: ir.Value, *, extra: bool) -> ir.Value:
    """A bias for the valid positions, with zeros for the free ones behind them and the key in front."""
    missing = site.add("Sub", site.length(past, 2), site.length(bias, 3))
    pads = site.add("Concat", site.ints(0, 0, 0, int(extra), 0, 0, 0), missing, axis=0)
    return site.add("Pad", bias, pads)
