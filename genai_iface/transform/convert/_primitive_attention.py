# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Attention spelled out in operators of opset 18.

ONNX has a definition of its own, but onnx.inliner 1.23 fails on absent inputs, and the definition scales all keys
in every step, which made decode steps a third slower on ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from genai_iface.graph._edit import Editor, copy_type
from genai_iface.graph._walk import attribute, describe, dim, input_at, output_at, rank, static_dim, unsupported

__all__ = ["PrimitiveAttention"]

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True)
class _Operands:
    """What one Attention reads, with heads on an axis of their own.

    Attributes:
        query: (B, H, S, D).
        key: (B, Hkv, T, D).
        value: (B, Hkv, T, Dv).
        num_heads: H, the query heads.
        num_kv_heads: Hkv, a divisor of H.
        scale: The factor of the scores.
        sizes: T and S as the graph names them, "?" or "None" where it does not.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    num_heads: int
    num_kv_heads: int
    scale: float
    sizes: tuple[str, str]


class PrimitiveAttention:
    """Spells out Attention nodes of one graph; layers whose masks are equal share one.

    A query that may see no key at all gets an average of the values instead of zeros; no real token is one.

    Args:
        edit: Where nodes are added.
    """

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._masks: dict[tuple[object, ...], ir.Value | None] = {}

    def spelled_out(self, node: ir.Node) -> ir.Value:
        """Adds nodes that compute the same before a node, and returns their result.

        Args:
            node: An Attention without a cache of its own.

        Raises:
            UnsupportedModelError: It is used in a way that cannot be spelled out, or a size is not known.
        """
        _check_use(node)
        operands = self._operands(node)
        key, value = (
            self._repeated(node, tensor, operands.num_heads, operands.num_kv_heads)
            for tensor in (operands.key, operands.value)
        )
        visible = self._visible(node, operands)
        scores = self._masked(node, self._scores(node, operands, key), visible, operands.query)
        mixed = self._add(node, "MatMul", self._softmax(node, scores, operands.query), value)
        if operands.query is node.inputs[0]:
            return mixed
        turned = self._add(node, "Transpose", mixed, perm=[0, 2, 1, 3])
        return self._add(node, "Reshape", turned, self._edit.ints(0, 0, -1))

    def _operands(self, node: ir.Node) -> _Operands:
        query, key, value = node.inputs[:3]
        if query is None or key is None or value is None:
            raise unsupported(f"An input of the {describe(node)} is missing")
        is_flat, sizes = rank(query) == 3, (dim(key, -2), dim(query, -2))
        if is_flat:
            heads, kv_heads = attribute(node, "q_num_heads", 0), attribute(node, "kv_num_heads", 0)
            size = (static_dim(key, -1) or 0) // max(kv_heads, 1)
        else:
            heads, kv_heads = static_dim(query, 1) or 0, static_dim(key, 1) or 0
            size = static_dim(key, -1) or static_dim(query, -1) or 0
        if not heads or not kv_heads or heads % kv_heads:
            raise unsupported(f"The {describe(node)} has {heads} query and {kv_heads} key heads by its shapes")
        if not size and "scale" not in node.attributes:
            raise unsupported(f"The head size of the {describe(node)} is not in the graph")
        if is_flat:
            query = self._heads_apart(node, query, heads)
            key, value = (self._heads_apart(node, tensor, kv_heads) for tensor in (key, value))
        scale = attribute(node, "scale", float(size or 1) ** -0.5)
        return _Operands(query, key, value, heads, kv_heads, scale, sizes)

    def _heads_apart(self, node: ir.Node, tensor: ir.Value, heads: int) -> ir.Value:
        """(B, S, H * D) as (B, H, S, D)."""
        apart = self._add(node, "Reshape", tensor, self._edit.ints(0, 0, heads, -1))
        turned = self._add(node, "Transpose", apart, perm=[0, 2, 1, 3])
        copy_type(tensor, turned)
        return turned

    def _repeated(self, node: ir.Node, tensor: ir.Value, heads: int, kv_heads: int) -> ir.Value:
        """(B, Hkv, T, D) as (B, H, T, D)."""
        if heads == kv_heads:
            return tensor
        wide = self._add(node, "Unsqueeze", tensor, self._edit.ints(2))
        wide = self._add(node, "Expand", wide, self._edit.ints(1, 1, heads // kv_heads, 1, 1))
        shape = self._add(node, "Shape", tensor, start=2, end=4)
        target = self._add(node, "Concat", self._edit.ints(-1, heads), shape, axis=0)
        return self._add(node, "Reshape", wide, target)

    def _scores(self, node: ir.Node, operands: _Operands, key: ir.Value) -> ir.Value:
        """Products of queries and keys (B, H, S, T), scaled and capped."""
        query = operands.query
        scaled = self._add(node, "Mul", query, self._scalar(node, operands.scale, query))
        scores = self._add(node, "MatMul", scaled, self._add(node, "Transpose", key, perm=[0, 1, 3, 2]))
        softcap = attribute(node, "softcap", 0.0)
        if softcap:
            cap = self._scalar(node, softcap, query)
            scores = self._add(node, "Mul", self._add(node, "Tanh", self._add(node, "Div", scores, cap)), cap)
        return scores

    def _masked(self, node: ir.Node, scores: ir.Value, visible: ir.Value | None, query: ir.Value) -> ir.Value:
        bias = input_at(node, 3)
        if bias is not None and bias.dtype != ir.DataType.BOOL:
            scores = self._add(node, "Add", scores, bias)
        if visible is None:
            return scores
        lowest = -65504.0 if query.dtype in _HALF else float(np.finfo(np.float32).min)
        return self._add(node, "Where", visible, scores, self._scalar(node, lowest, query))

    def _softmax(self, node: ir.Node, scores: ir.Value, query: ir.Value) -> ir.Value:
        """In float32 where the node asks for that and the query has half precision."""
        if attribute(node, "softmax_precision", 0) != ir.DataType.FLOAT.value or query.dtype not in _HALF:
            return self._add(node, "Softmax", scores, axis=-1)
        weights = self._add(node, "Softmax", self._add(node, "Cast", scores, to=ir.DataType.FLOAT.value), axis=-1)
        return self._add(node, "Cast", weights, to=query.dtype.value)

    def _visible(self, node: ir.Node, operands: _Operands) -> ir.Value | None:
        """Bool, broadcastable to (B, H, S, T): by the boolean mask, causality and valid lengths; None for all."""
        mask, lengths = input_at(node, 3), input_at(node, 6)
        is_causal = bool(attribute(node, "is_causal", 0))
        use = (mask, lengths, is_causal, operands.sizes)
        if use in self._masks and not {"?", "None"} & set(operands.sizes):
            return self._masks[use]
        visible = mask if mask is not None and mask.dtype == ir.DataType.BOOL else None
        if is_causal or lengths is not None:
            reachable = self._reachable(node, operands, lengths, is_causal)
            visible = reachable if visible is None else self._add(node, "And", visible, reachable)
        self._masks[use] = visible
        return visible

    def _reachable(self, node: ir.Node, operands: _Operands, lengths: ir.Value | None, is_causal: bool) -> ir.Value:
        """Keys within the valid lengths and, for causal attention, up to the query's own position."""
        zero, one = (self._add(node, "Constant", value_int=number) for number in (0, 1))
        keys = self._add(node, "Range", zero, self._length(node, operands.key), one)
        valid = None if lengths is None else self._add(node, "Unsqueeze", lengths, self._edit.ints(1, 2, 3))
        if not is_causal and valid is not None:
            return self._add(node, "Less", keys, valid)
        width = self._length(node, operands.query)
        last = self._add(node, "Unsqueeze", self._add(node, "Range", zero, width, one), self._edit.ints(1))
        if valid is not None:
            last = self._add(node, "Add", last, self._add(node, "Sub", valid, width))
        return self._add(node, "LessOrEqual", keys, last)

    def _length(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """The size of axis 2, a scalar."""
        return self._add(node, "Squeeze", self._add(node, "Shape", value, start=2, end=3), self._edit.ints(0))

    def _scalar(self, node: ir.Node, value: float, like: ir.Value) -> ir.Value:
        """A constant of another value's element type."""
        dtype = like.dtype or ir.DataType.FLOAT
        return self._add(node, "Constant", value=ir.Tensor(np.array(value, dtype.numpy()), dtype=dtype))

    def _add(self, node: ir.Node, kind: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        return self._edit.before(node, kind, inputs, attributes)[0]


def _check_use(node: ir.Node) -> None:
    if any(input_at(node, index) for index in (4, 5)) or any(output_at(node, index) for index in (1, 2, 3)):
        raise unsupported(f"The {describe(node)} keeps a cache of its own or gives its scores")
    if any(attribute(node, f"{side}_window_size", -1) >= 0 for side in ("left", "right")):
        raise unsupported(f"The {describe(node)} has a window of its own")
