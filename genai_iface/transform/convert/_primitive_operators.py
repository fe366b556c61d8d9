# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Attention, RotaryEmbedding, RMSNormalization spelled out, for runtimes that read older opsets only."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._edit import Editor, copy_type, infer_shapes, replace_value
from genai_iface.graph._walk import (
    attribute,
    describe,
    dim,
    input_at,
    is_constant,
    output_at,
    rank,
    static_dim,
    unsupported,
)
from genai_iface.transform._raise_opset import raise_opset
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["PrimitiveOperators"]

_OPSETS = range(18, 25)
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class PrimitiveOperators(Rewrite):
    """Replaces the three operators of opset 23 by older ones and declares the oldest opset that holds all nodes.

    DequantizeLinear is spelled out too where its input is no weight but rows gathered from a quantized table, which
    few runtimes take in blocks.

    A query that may see no key at all gets an average of the values instead of zeros; no real token is one.
    """

    name = "primitive-operators"

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place.

        Raises:
            UnsupportedModelError: An operator is used in a way that cannot be spelled out, or a size is not known.
        """
        infer_shapes(model)
        self._edit = Editor(model.graph, "primitive")
        self._visible: dict[tuple[object, ...], ir.Value | None] = {}
        spelled = {
            "Attention": self._attention,
            "RotaryEmbedding": self._rotary,
            "RMSNormalization": self._norm,
            "DequantizeLinear": self._dequantized,
        }
        count = 0
        for node in list(model.graph):
            if node.domain == "" and node.op_type in spelled:
                result = spelled[node.op_type](node)
                if result is None:
                    continue
                copy_type(node.outputs[0], result)
                result.shape = node.outputs[0].shape
                replace_value(node.outputs[0], result)
                count += 1
        RemoveUnusedNodesPass()(model)
        for opset in _OPSETS:
            try:
                raise_opset(model, opset)
            except UnsupportedModelError:
                continue
            break
        return self.said(count, f"{count} nodes spelled out, opset {model.graph.opset_imports.get('', 0)}")

    def _add(self, node: ir.Node, kind: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        return self._edit.before(node, kind, inputs, attributes)[0]

    def _scalar(self, node: ir.Node, value: float, like: ir.Value) -> ir.Value:
        """A constant of a value's element type."""
        dtype = like.dtype or ir.DataType.FLOAT
        return self._add(node, "Constant", value=ir.Tensor(np.array(value, dtype.numpy()), dtype=dtype))

    def _number(self, node: ir.Node, value: int) -> ir.Value:
        return self._add(node, "Constant", value_int=value)

    def _length(self, node: ir.Node, value: ir.Value, axis: int) -> ir.Value:
        shape = self._add(node, "Shape", value, start=axis, end=axis + 1)
        return self._add(node, "Squeeze", shape, self._edit.ints(0))

    # RMSNormalization.

    def _norm(self, node: ir.Node) -> ir.Value:
        x, scale = node.inputs[0], node.inputs[1]
        axis, axes = attribute(node, "axis", -1), None if x is None else rank(x)
        if x is None or scale is None or (axis != -1 and axes is None):
            raise unsupported(f"The {describe(node)} normalizes from axis {axis} on, and its rank is not known")
        over = [-1] if axis == -1 else list(range(axis % (axes or 1), axes or 1))
        wide = x
        if x.dtype in _HALF:
            wide = self._add(node, "Cast", x, to=ir.DataType.FLOAT.value)
            wide.dtype = ir.DataType.FLOAT
        square = self._add(node, "Mul", wide, wide)
        mean = self._add(node, "ReduceMean", square, self._edit.ints(*over), keepdims=1)
        root = self._add(node, "Add", mean, self._scalar(node, attribute(node, "epsilon", 1e-5), wide))
        result = self._add(node, "Div", wide, self._add(node, "Sqrt", root))
        if wide is not x:
            result = self._add(node, "Cast", result, to=(x.dtype or ir.DataType.FLOAT).value)
        return self._add(node, "Mul", result, scale)

    # DequantizeLinear.

    def _dequantized(self, node: ir.Node) -> ir.Value | None:
        """Gathered rows of a quantized table, block by block; weights stay, runtimes know them."""
        x, scale, zero = input_at(node, 0), input_at(node, 1), input_at(node, 2)
        block, axis = attribute(node, "block_size", 0), attribute(node, "axis", 1)
        if x is None or scale is None or is_constant(x) or not block:
            return None
        axes = rank(x)
        if axes is None:
            raise unsupported(f"The rank of what the {describe(node)} takes is not known")
        axis %= axes
        shape = self._add(node, "Shape", x)
        before = self._add(node, "Shape", x, start=0, end=axis)
        after = self._add(node, "Slice", shape, self._edit.ints(axis + 1), self._edit.ints(2**31 - 1))
        blocks = self._add(node, "Concat", before, self._edit.ints(-1, block), after, axis=0)
        kind = (scale.dtype or ir.DataType.FLOAT).value
        numbers = self._add(node, "Cast", self._add(node, "Reshape", x, blocks), to=kind)
        if zero is not None:
            middle = self._add(node, "Unsqueeze", self._add(node, "Cast", zero, to=kind), self._edit.ints(axis + 1))
            numbers = self._add(node, "Sub", numbers, middle)
        scaled = self._add(node, "Mul", numbers, self._add(node, "Unsqueeze", scale, self._edit.ints(axis + 1)))
        return self._add(node, "Reshape", scaled, shape)

    # RotaryEmbedding.

    def _rotary(self, node: ir.Node) -> ir.Value:
        x, cos, sin, positions = (input_at(node, slot) for slot in range(4))
        axes = None if x is None else rank(x)
        heads, part = attribute(node, "num_heads", 0), attribute(node, "rotary_embedding_dim", 0)
        if x is None or cos is None or sin is None or axes not in (3, 4) or (axes == 3 and not heads):
            raise unsupported(f"The {describe(node)} has an input of rank {axes}, or its heads are not known")
        flat = x
        if axes == 3:
            x = self._add(node, "Reshape", x, self._edit.ints(0, 0, heads, -1))
        tables = []
        for table in (cos, sin):
            rows = table if positions is None else self._add(node, "Gather", table, positions)
            tables.append(self._add(node, "Unsqueeze", rows, self._edit.ints(2 if axes == 3 else 1)))
        rest = None
        turned = x
        if part:
            turned = self._slice(node, x, 0, part)
            rest = self._slice(node, x, part, 2**31 - 1)
        if attribute(node, "interleaved", 0):
            one, other = (self._slice(node, turned, begin, 2**31 - 1, step=2) for begin in (0, 1))
        else:
            one, other = self._edit.before(node, "Split", [turned], {"axis": -1, "num_outputs": 2}, outputs=2)
        cosine, sine = tables
        real = self._add(node, "Sub", self._add(node, "Mul", one, cosine), self._add(node, "Mul", other, sine))
        imaginary = self._add(node, "Add", self._add(node, "Mul", one, sine), self._add(node, "Mul", other, cosine))
        if attribute(node, "interleaved", 0):
            pair = [self._add(node, "Unsqueeze", value, self._edit.ints(-1)) for value in (real, imaginary)]
            result = self._add(node, "Reshape", self._add(node, "Concat", *pair, axis=-1), self._edit.ints(0, 0, 0, -1))
            result = result if rest is None else self._add(node, "Concat", result, rest, axis=-1)
        else:
            result = self._add(node, "Concat", real, imaginary, *([] if rest is None else [rest]), axis=-1)
        return result if flat is x else self._add(node, "Reshape", result, self._edit.ints(0, 0, -1))

    def _slice(self, node: ir.Node, value: ir.Value, begin: int, end: int, step: int = 1) -> ir.Value:
        ints = self._edit.ints
        return self._add(node, "Slice", value, ints(begin), ints(end), ints(-1), ints(step))

    # Attention.

    def _attention(self, node: ir.Node) -> ir.Value:
        query, key, value = node.inputs[:3]
        if query is None or key is None or value is None:
            raise unsupported(f"An input of the {describe(node)} is missing")
        if any(input_at(node, slot) for slot in (4, 5)) or any(output_at(node, slot) for slot in (1, 2, 3)):
            raise unsupported(f"The {describe(node)} keeps a cache of its own or gives its scores")
        if any(attribute(node, f"{side}_window_size", -1) >= 0 for side in ("left", "right")):
            raise unsupported(f"The {describe(node)} has a window of its own")
        flat = rank(query) == 3
        heads, kv_heads = attribute(node, "q_num_heads", 0), attribute(node, "kv_num_heads", 0)
        if flat:
            query, key, value = (
                self._split(node, tensor, count)
                for tensor, count in ((query, heads), (key, kv_heads), (value, kv_heads))
            )
            size = (static_dim(node.inputs[1] or key, -1) or 0) // max(kv_heads, 1)
        else:
            heads, kv_heads = static_dim(query, 1) or 0, static_dim(key, 1) or 0
            size = static_dim(key, -1) or static_dim(query, -1) or 0
        if not heads or not kv_heads or heads % kv_heads:
            raise unsupported(f"The {describe(node)} has {heads} query and {kv_heads} key heads by its shapes")
        if not size and "scale" not in node.attributes:
            raise unsupported(f"The head size of the {describe(node)} is not in the graph")
        visible = self._seen(node, query, key)
        key, value = (self._repeated(node, tensor, heads, kv_heads) for tensor in (key, value))
        copy_type(node.inputs[0] or query, query)
        scale = attribute(node, "scale", float(size or 1) ** -0.5)
        scaled = self._add(node, "Mul", query, self._scalar(node, scale, query))
        scores = self._add(node, "MatMul", scaled, self._add(node, "Transpose", key, perm=[0, 1, 3, 2]))
        softcap = attribute(node, "softcap", 0.0)
        if softcap:
            cap = self._scalar(node, softcap, query)
            scores = self._add(node, "Mul", self._add(node, "Tanh", self._add(node, "Div", scores, cap)), cap)
        mask = input_at(node, 3)
        if mask is not None and mask.dtype != ir.DataType.BOOL:
            scores = self._add(node, "Add", scores, mask)
        if visible is not None:
            lowest = float(np.finfo(np.float32).min) if query.dtype not in _HALF else -65504.0
            scores = self._add(node, "Where", visible, scores, self._scalar(node, lowest, query))
        wide = attribute(node, "softmax_precision", 0) == ir.DataType.FLOAT.value and query.dtype in _HALF
        if wide:
            scores = self._add(node, "Cast", scores, to=ir.DataType.FLOAT.value)
        weights = self._add(node, "Softmax", scores, axis=-1)
        if wide:
            weights = self._add(node, "Cast", weights, to=(query.dtype or ir.DataType.FLOAT).value)
        mixed = self._add(node, "MatMul", weights, value)
        if flat:
            turned = self._add(node, "Transpose", mixed, perm=[0, 2, 1, 3])
            mixed = self._add(node, "Reshape", turned, self._edit.ints(0, 0, -1))
        return mixed

    def _split(self, node: ir.Node, tensor: ir.Value, heads: int) -> ir.Value:
        """(B, S, heads * D) as (B, heads, S, D)."""
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

    def _seen(self, node: ir.Node, query: ir.Value, key: ir.Value) -> ir.Value | None:
        """Bool, broadcastable to (B, H, S, T): by the boolean mask, causality and valid lengths; None for all."""
        mask, lengths = input_at(node, 3), input_at(node, 6)
        causal = attribute(node, "is_causal", 0)
        place = (mask, lengths, causal, dim(node.inputs[1] or key, -2), dim(node.inputs[0] or query, -2))
        if place in self._visible and "?" not in place and "None" not in place:
            return self._visible[place]
        seen = mask if mask is not None and mask.dtype == ir.DataType.BOOL else None
        if causal or lengths is not None:
            zero, one = self._number(node, 0), self._number(node, 1)
            keys = self._add(node, "Range", zero, self._length(node, key, 2), one)
            width = self._length(node, query, 2)
            valid = None if lengths is None else self._add(node, "Unsqueeze", lengths, self._edit.ints(1, 2, 3))
            if causal:
                steps = self._add(node, "Unsqueeze", self._add(node, "Range", zero, width, one), self._edit.ints(1))
                if valid is not None:
                    steps = self._add(node, "Add", steps, self._add(node, "Sub", valid, width))
                allowed = self._add(node, "LessOrEqual", keys, steps)
            elif valid is not None:
                allowed = self._add(node, "Less", keys, valid)
            seen = allowed if seen is None else self._add(node, "And", seen, allowed)
        self._visible[place] = seen
        return seen
