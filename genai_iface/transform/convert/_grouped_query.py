# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Contrib operators of ONNX Runtime GenAI's builder -> standard ones: GroupQueryAttention and its norms."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from genai_iface.graph._edit import Editor, copy_type, replace_value
from genai_iface.graph._walk import attribute, constant_shape, describe, input_at, is_op, output_at, unsupported
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["StandardOperators"]

_KEEP = "The ONNX Runtime backend runs this model as it is."
_NORMS = ("SimplifiedLayerNormalization", "com.microsoft.SimplifiedLayerNormalization")
_SKIP_NORMS = ("com.microsoft.SkipSimplifiedLayerNormalization", "com.microsoft.SkipLayerNormalization")
# past_key, past_value, seqlens_k, total_sequence_length, cos_cache, sin_cache, position_ids come before it.
_FIRST_EXTRA = 10


class StandardOperators(Rewrite):
    """Writes every GroupQueryAttention as RotaryEmbedding and an Attention with past inputs, of opset 23.

    The cache is then one that grows, and seqlens_k and total_sequence_length are not needed. MatMulNBits stays.

    Args:
        signature: The graph's signature, cache style "shared".
    """

    name = "standard-operators"

    def __init__(self, signature: GraphSignature) -> None:
        super().__init__()
        self._signature = signature

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place.

        Raises:
            UnsupportedModelError: A GroupQueryAttention has inputs or attributes that Attention lacks.
        """
        self._edit = Editor(model.graph, "standard")
        values = ir.convenience.create_value_mapping(model.graph)
        self._ids = values[self._signature.inputs["input_ids"]]
        self._positions: ir.Value | None = None
        layers = {tensor.past: self._signature.cache.layers[tensor.layer] for tensor in self._signature.cache_tensors}
        for tensor in self._signature.cache_tensors:
            shape = values[tensor.past].shape
            if shape is not None:
                values[tensor.past].shape = ir.Shape([shape[0], shape[1], "past_sequence_length", shape[3]])
        count = 0
        for node in list(model.graph):
            if is_op(node, "com.microsoft.GroupQueryAttention"):
                past = input_at(node, 3)
                self._attention(node, layers[str(past.name)].key_head_dim if past is not None else 0)
            elif is_op(node, *_NORMS, *_SKIP_NORMS):
                self._norm(node)
            else:
                continue
            count += 1
        RemoveUnusedNodesPass()(model)
        for role, name in self._signature.inputs.items():
            if role in ("seqlens_k", "total_sequence_length", "attention_mask") and not values[name].uses():
                model.graph.inputs.remove(values[name])
        domain = "" if "" in model.graph.opset_imports else "ai.onnx"
        model.graph.opset_imports[domain] = max(model.graph.opset_imports.get(domain, 0), 23)
        return self.said(count, f"{count} nodes")

    def _attention(self, node: ir.Node, size: int) -> None:
        heads, kv_heads = attribute(node, "num_heads", 0), attribute(node, "kv_num_heads", 0)
        extra = [index for index in range(_FIRST_EXTRA, len(node.inputs)) if input_at(node, index) is not None]
        query, key, value, past_key, past_value = (input_at(node, index) for index in range(5))
        if extra or attribute(node, "smooth_softmax", 0) or query is None or past_key is None or output_at(node, 3):
            raise unsupported(
                f"The {describe(node)} has a bias, a sink, norms or an output that the standard Attention does not "
                f"have (inputs {extra})",
                _KEEP,
            )
        if key is None or value is None:
            sizes = self._edit.ints(heads * size, kv_heads * size, kv_heads * size)
            query, key, value = self._edit.before(node, "Split", [query, sizes], {"axis": -1}, outputs=3)
        if attribute(node, "do_rotary", 0):
            query, key = self._rotated(node, query, heads, size), self._rotated(node, key, kv_heads, size)
        attributes: dict[str, int | float] = {"is_causal": 1, "q_num_heads": heads, "kv_num_heads": kv_heads}
        if attribute(node, "scale", 0.0):
            attributes["scale"] = attribute(node, "scale", 0.0)
        if attribute(node, "softcap", 0.0) > 0:
            attributes["softcap"] = attribute(node, "softcap", 0.0)
        if attribute(node, "local_window_size", -1) > 0:
            # Of opset 25; whoever reads this graph next turns it into a mask.
            attributes["left_window_size"] = attribute(node, "local_window_size", -1) - 1
        inputs = [query, key, value, None, past_key, past_value]
        for old, new in zip(
            node.outputs, self._edit.before(node, "Attention", inputs, attributes, outputs=3), strict=False
        ):
            copy_type(past_key, new)
            new.shape = old.shape
            replace_value(old, new)

    def _rotated(self, node: ir.Node, x: ir.Value, heads: int, size: int) -> ir.Value:
        """(B, S, heads * D), rotated by the tables of the operator."""
        cos, sin = input_at(node, 7), input_at(node, 8)
        shape = constant_shape(cos)
        if cos is None or sin is None or shape is None:
            raise unsupported(f"The rotary tables of the {describe(node)} are not constants", _KEEP)
        attributes = {"num_heads": heads, "interleaved": attribute(node, "rotary_interleaved", 0)}
        if 2 * shape[1] < size:
            attributes["rotary_embedding_dim"] = 2 * shape[1]
        positions = input_at(node, 9) or self._counted(node)
        (turned,) = self._edit.before(node, "RotaryEmbedding", [x, cos, sin, positions], attributes)
        copy_type(cos, turned)
        return turned

    def _counted(self, node: ir.Node) -> ir.Value:
        """int64 (B, S): the length of the past, and on."""
        if self._positions is None:
            add = self._edit.before
            shape = add(node, "Shape", [self._ids])[0]
            one, two = (add(node, "Constant", [], {"value_int": number})[0] for number in (1, 2))
            (past,) = add(node, "Gather", [add(node, "Shape", [input_at(node, 3)])[0], two])
            (end,) = add(node, "Add", [past, add(node, "Gather", [shape, one])[0]])
            (steps,) = add(node, "Range", [past, end, one])
            (row,) = add(node, "Unsqueeze", [steps, self._edit.ints(0)])
            (self._positions,) = add(node, "Expand", [row, shape])
        return self._positions

    def _norm(self, node: ir.Node) -> None:
        """A norm, perhaps with the sum before it."""
        x, attributes = input_at(node, 0), {"axis": -1, "epsilon": attribute(node, "epsilon", 1e-5)}
        if is_op(node, *_NORMS):
            kind, weights = "RMSNormalization", [input_at(node, 1)]
            attributes["axis"] = attribute(node, "axis", -1)
        else:
            simple = is_op(node, _SKIP_NORMS[0])
            kind = "RMSNormalization" if simple else "LayerNormalization"
            bias = input_at(node, 3 if simple else 4)
            weights = [input_at(node, 2)] if simple else [input_at(node, 2), input_at(node, 3)]
            (x,) = self._edit.before(node, "Add", [x, input_at(node, 1)])
            if bias is not None:
                (x,) = self._edit.before(node, "Add", [x, bias])
            self._typed(x, node, 3)
            if output_at(node, 3) is not None:
                replace_value(node.outputs[3], x)
        (result,) = self._edit.before(node, kind, [x, *weights], attributes)
        self._typed(result, node, 0)
        replace_value(node.outputs[0], result)

    def _typed(self, value: ir.Value, node: ir.Node, index: int) -> None:
        """The type and shape of an output, or at least of the input."""
        old = node.outputs[index] if index < len(node.outputs) else node.outputs[0]
        copy_type(old if old.dtype is not None else (node.inputs[0] or old), value)
        value.shape = node.outputs[0].shape
