# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Gives a TensorScatter cache of rank 3 the layout with heads apart, which long contexts read faster."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor, copy_type, replace_value
from genai_iface.graph._walk import attribute, describe, input_at, is_op
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["BnshCache"]


class BnshCache(Rewrite):
    """Caches (B, C, Hkv * D) become (B, Hkv, C, D), and the attention that reads them takes rank 4.

    Precondition: each cache goes from its TensorScatter straight into Attention, without a mask of its own rank.

    Args:
        signature: The graph's signature, layout "bsh".
    """

    name = "bnsh-cache"

    def __init__(self, signature: GraphSignature) -> None:
        super().__init__()
        self._signature = signature

    def rewrite(self, model: ir.Model) -> Note:
        """All layers or none."""
        cache = self._signature.cache
        if cache.style != "scatter" or cache.layout != "bsh":
            return self.said(0, f"the cache is of style {cache.style} in the layout {cache.layout}")
        values = ir.convenience.create_value_mapping(model.graph)
        readers: dict[ir.Node, int] = {}
        for tensor in self._signature.cache_tensors:
            reason = _obstacle(values[tensor.past])
            if reason:
                return self.said(0, reason)
            ((writer, _),) = values[tensor.past].uses()
            readers |= {node: tensor.layer for node, _ in writer.outputs[0].uses()}
        edit = Editor(model.graph, "bnsh")
        for tensor in self._signature.cache_tensors:
            layer = cache.layers[tensor.layer]
            size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
            ((writer, _),) = values[tensor.past].uses()
            _split_cache(edit, values[tensor.past], writer, layer.num_kv_heads, size)
        for node, index in readers.items():
            _split_attention(edit, node, cache.layers[index].value_head_dim)
        count = len(self._signature.cache_tensors)
        return self.said(count, f"{count} cache tensors have heads on an axis of their own")


def _obstacle(past: ir.Value) -> str:
    """Why a cache cannot change its layout, or nothing."""
    uses = tuple(past.uses())
    if len(uses) != 1 or not is_op(uses[0].node, "TensorScatter") or uses[0].idx != 0:
        return f"{past.name!r} is read by something else than one TensorScatter"
    writer = uses[0].node
    if past.shape is None or input_at(writer, 1) is None:
        return f"{past.name!r} has no shape, or nothing is written to it"
    for node, index in writer.outputs[0].uses():
        if not is_op(node, "Attention") or index not in (1, 2):
            return f"the {describe(node)} reads {past.name!r}, expected Attention"
        if input_at(node, 0) is None or not node.outputs[0].uses():
            return f"the {describe(node)} has no queries, or nothing reads it"
    return ""


def _split_cache(edit: Editor, past: ir.Value, node: ir.Node, heads: int, size: int) -> None:
    update = input_at(node, 1)
    if update is None or past.shape is None:
        raise ValueError(f"the {describe(node)} writes nothing, or to a cache without a shape")
    node.replace_input_with(1, _heads_apart(edit, node, update, heads, size))
    node.attributes["axis"] = ir.AttrInt64("axis", 2)
    shape = ir.Shape([past.shape[0], heads, past.shape[1], size])
    past.shape = shape
    node.outputs[0].shape = shape.copy()


def _split_attention(edit: Editor, node: ir.Node, value_size: int) -> None:
    heads = attribute(node, "q_num_heads", 0)
    query, output = input_at(node, 0), node.outputs[0]
    if query is None:
        raise ValueError(f"the {describe(node)} has no queries")
    node.replace_input_with(0, _heads_apart(edit, node, query, heads, 0))
    del node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    graph = node.graph
    after = next((other for other, _ in output.uses()), None)
    if graph is None or after is None:
        raise ValueError(f"nothing reads the {describe(node)}")
    shape = output.shape
    follower = graph[list(graph).index(node) + 1]
    (turned,) = edit.before(follower, "Transpose", [output], {"perm": [0, 2, 1, 3]})
    (joined,) = edit.before(follower, "Reshape", [turned, edit.ints(0, 0, heads * value_size)])
    joined.shape = shape
    copy_type(output, joined)
    copy_type(output, turned)
    output.shape = None
    transpose = turned.producer()
    replace_value(output, joined)
    if transpose is not None:
        transpose.replace_input_with(0, output)


def _heads_apart(edit: Editor, place: ir.Node, value: ir.Value, heads: int, size: int) -> ir.Value:
    """(B, S, H * D) as (B, H, S, D); the size -1 if it is 0."""
    (split,) = edit.before(place, "Reshape", [value, edit.ints(0, 0, heads, size or -1)])
    (turned,) = edit.before(place, "Transpose", [split], {"perm": [0, 2, 1, 3]})
    copy_type(value, split)
    copy_type(value, turned)
    return turned
