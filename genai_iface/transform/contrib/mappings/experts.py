# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""MoE and QMoE -> every expert on every token, as one batched product, weighed by the router's choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Lazy
from genai_iface.graph._walk import static_dim
from genai_iface.transform.contrib.mappings.activations import gelu_of, swiglu_of, swish_of
from genai_iface.transform.contrib.mappings.packed import (
    PackedTensor,
    packed_tensor,
    signed,
    storage,
    unpack,
    unsigned,
)
from genai_iface.transform.contrib.site import Site

__all__ = ["mixture_of_experts", "quantized_mixture_of_experts"]

_ACTIVATIONS = ("relu", "gelu", "silu", "swiglu", "identity")


def mixture_of_experts(site: Site) -> None:
    """(input, router_probs, fc1, fc1 bias, fc2, fc2 bias, fc3, fc3 bias)."""
    if site.input(6) is not None:
        raise site.refuse("has a third matrix for each expert (fc3)")
    _experts(site, _turned(site, 2), site.input(3), _turned(site, 4), site.input(5), None)


def quantized_mixture_of_experts(site: Site) -> None:
    """(input, router_probs, fc1, scales, bias, fc2, scales, bias, fc3, .., zero points, router_weights)."""
    kind = site.text("quant_type", "int") or "int"
    if kind != "int":
        raise site.refuse(f"has experts of the type {kind!r}, expected integers")
    if site.input(8) is not None:
        raise site.refuse("has a third matrix for each expert (fc3)")
    if site.integer("weights_prepacked") > 0:
        raise site.refuse("has weights in the layout of one device (weights_prepacked)")
    if site.input(14) is None and not site.integer("normalize_routing_weights"):
        raise site.refuse(
            "asks for routing weights that are not normalized, and ONNX Runtime's kernel normalizes them all the same"
        )
    first = _dequantized(site, 2, 3, 11, "fc1_expert_weight_bits")
    second = _dequantized(site, 5, 6, 12, "fc2_expert_weight_bits")
    _experts(site, first, site.input(4), second, site.input(7), site.input(14))


def _experts(
    site: Site,
    first: ir.Value,
    first_bias: ir.Value | None,
    second: ir.Value,
    second_bias: ir.Value | None,
    weights: ir.Value | None,
) -> None:
    if site.integer("use_sparse_mixer"):
        raise site.refuse("chooses experts with the sparse mixer")
    if site.integer("swiglu_limit_after_activation"):
        raise site.refuse("clamps after the activation (swiglu_limit_after_activation)")
    x = site.required(0)
    hidden = static_dim(second, -1)
    if hidden is None:
        raise site.refuse("does not say its hidden size")
    tokens = site.add("Reshape", x, site.ints(1, -1, hidden))
    inner = _activated(site, _affine(site, tokens, first, first_bias))
    every = _affine(site, inner, second, second_bias)
    gates = _gates(site, weights)
    unused = site.add("Equal", gates, site.scalar(0.0, gates))
    # An expert that was not chosen may overflow; it must not count.
    chosen = site.add("Where", unused, site.scalar(0.0, every), site.add("Mul", every, gates))
    total = site.add("ReduceSum", chosen, site.ints(0), keepdims=0)
    result = site.add("Reshape", total, site.add("Shape", x))
    result.shape = x.shape
    site.give(result)


def _affine(site: Site, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """(1 or E, T, K) @ (E, K, N) + bias (E, N)."""
    result = site.add("MatMul", x, weight)
    return result if bias is None else site.add("Add", result, site.add("Unsqueeze", bias, site.ints(1)))


def _activated(site: Site, x: ir.Value) -> ir.Value:
    kind = site.text("activation_type", "relu")
    if kind not in _ACTIVATIONS:
        raise site.refuse(f"has the activation {kind!r}, expected one of {', '.join(_ACTIVATIONS)}")
    if kind == "identity":
        return x
    if kind == "relu":
        return site.add("Relu", x)
    if kind == "gelu":
        return gelu_of(site, x, "tanh")
    if kind == "silu":
        return swish_of(site, x, 1.0)
    fusion = site.integer("swiglu_fusion")
    if fusion not in (1, 2):
        raise site.refuse("keeps the two halves of SwiGLU in matrices of their own (swiglu_fusion 0)")
    gate, up = _halves(site, x, interleaved=fusion == 1)
    limit = site.real("swiglu_limit", float("inf"))
    return swiglu_of(
        site,
        gate,
        up,
        alpha=site.real("activation_alpha", 1.0),
        beta=site.real("activation_beta", 0.0),
        limit=limit if np.isfinite(limit) else None,
    )


def _halves(site: Site, x: ir.Value, *, interleaved: bool) -> tuple[ir.Value, ir.Value]:
    if not interleaved:
        gate, up = site.several("Split", 2, x, axis=-1, num_outputs=2)
        return gate, up
    ends = site.ints(2**62)
    gate, up = (site.add("Slice", x, site.ints(first), ends, site.ints(-1), site.ints(2)) for first in (0, 1))
    return gate, up


def _gates(site: Site, weights: ir.Value | None) -> ir.Value:
    """(E, T, 1): the weight of each expert for each token, 0 where it was not chosen."""
    router = site.required(1)
    if site.rank(router) != 2:
        raise site.refuse(f"has router_probs of rank {site.rank(router)}, expected (tokens, experts)")
    scores = site.add("Softmax", router, axis=-1) if weights is None else weights
    count = site.ints(site.integer("k", 1))
    _, chosen = site.several("TopK", 2, router, count, axis=-1)
    chosen.dtype = ir.DataType.INT64
    picked = site.add("GatherElements", scores, chosen, axis=-1)
    if site.integer("normalize_routing_weights"):
        picked = site.add("Div", picked, site.add("ReduceSum", picked, site.ints(-1), keepdims=1))
    empty = site.add("Mul", scores, site.scalar(0.0, scores))
    spread = site.add("ScatterElements", empty, chosen, picked, axis=-1)
    return site.add("Unsqueeze", site.add("Transpose", spread, perm=[1, 0]), site.ints(2))


def _turned(site: Site, index: int) -> ir.Value:
    """Weights (E, N, K) as (E, K, N)."""
    given = packed_tensor(site.input(index))
    if given is None:
        return site.add("Transpose", site.required(index), perm=[0, 2, 1])
    experts, columns, rows = given.shape
    make = _Turn(given)
    return site.edit.weight(str(given.root.name), Lazy(make, given.tensor.dtype, (experts, rows, columns)))


class _Turn:
    """Reads matrices transposed."""

    def __init__(self, given: PackedTensor) -> None:
        self._given = given

    def __call__(self) -> NDArray[Any]:
        return np.ascontiguousarray(self._given.numpy().swapaxes(1, 2))


def _dequantized(site: Site, index: int, scale_index: int, point_index: int, own_bits: str) -> ir.Value:
    """Quantized weights (E, N, K) as (E, K, N) floats; without a block size, a column is one block."""
    packed, scales = packed_tensor(site.input(index)), packed_tensor(site.input(scale_index))
    points = packed_tensor(site.input(point_index))
    if packed is None or scales is None or (points is None and site.input(point_index) is not None):
        raise site.refuse("computes its weights in each step, expected constants")
    bits = site.integer(own_bits) or site.integer("expert_weight_bits", 4)
    if bits not in (2, 4, 8):
        raise site.refuse(f"has weights of {bits} bits, expected 2, 4 or 8")
    experts, columns, wide = packed.shape
    rows = wide * 8 // bits
    block = site.integer("block_size") or rows
    blocks = -(-rows // block)
    convert = (signed if points is None else unsigned)(bits)

    def integers() -> NDArray[Any]:
        return np.ascontiguousarray(convert(unpack(packed.numpy(), bits)).swapaxes(1, 2))

    def scale() -> NDArray[Any]:
        return np.ascontiguousarray(scales.numpy().reshape(experts, columns, blocks).swapaxes(1, 2))

    def zero_points(given: PackedTensor) -> NDArray[Any]:
        if site.integer("block_size"):
            codes = unpack(given.numpy().reshape(experts, columns, -1), bits)[:, :, :blocks]
        else:
            codes = unpack(given.numpy().reshape(experts, -1), bits)[:, :columns, None]
        return np.ascontiguousarray(unsigned(bits)(codes).swapaxes(1, 2))

    stem, sizes = str(packed.root.name), (experts, blocks, columns)
    parts: list[ir.Value | None] = [
        site.edit.weight(stem, Lazy(integers, storage(bits, is_signed=points is None), (experts, rows, columns))),
        site.edit.weight(f"{stem}.scales", Lazy(scale, scales.tensor.dtype, sizes)),
    ]
    if points is not None:
        make = Lazy(lambda: zero_points(points), storage(bits, is_signed=False), sizes)
        parts.append(site.edit.weight(f"{stem}.zero_points", make))
    result = site.add("DequantizeLinear", *parts, axis=1, block_size=block)
    result.dtype, result.shape = scales.tensor.dtype, ir.Shape((experts, rows, columns))
    dtype = site.float_type(site.required(0))
    if result.dtype != dtype:
        result = site.add("Cast", result, to=int(dtype))
    return result
