# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Leaves a cache to its operators: sizes that the graph asks a cache for come from elsewhere."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor, replace_value
from genai_iface.graph._walk import attribute, is_op
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["CacheShapes"]


class CacheShapes(Rewrite):
    """Shape nodes that read a cache: the batch comes from input_ids, heads and their size are constants.

    Exporters take a size from any tensor that has it. What is left at the cache is its capacity, which nothing
    else has, as a Shape of that axis alone.

    Precondition: the cache is of style "scatter", where the signature says what each axis is.

    Args:
        signature: The graph's signature.
    """

    name = "cache-shapes"

    def __init__(self, signature: GraphSignature) -> None:
        super().__init__()
        self._signature = signature

    def rewrite(self, model: ir.Model) -> Note:
        """Rewrites every Shape that reads more of a cache than its capacity."""
        cache = self._signature.cache
        if cache.style != "scatter":
            return self.said(0, f"the cache is of style {cache.style}")
        values = ir.convenience.create_value_mapping(model.graph)
        edit = Editor(model.graph, "cache_shapes")
        ids = values[self._signature.inputs["input_ids"]]
        axis = 2 if cache.layout == "bnsh" else 1
        count = 0
        for tensor in self._signature.cache_tensors:
            layer = cache.layers[tensor.layer]
            size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
            sizes: list[int | None] = [None, layer.num_kv_heads, None, size]
            if cache.layout == "bsh":
                sizes = [None, None, layer.num_kv_heads * size]
            past = values[tensor.past]
            for value in (past, values[tensor.present]):
                for node in [node for node, _ in value.uses() if is_op(node, "Shape")]:
                    count += _taken_elsewhere(edit, node, ids, past, sizes, axis)
        if count:
            return self.said(count, f"{count} sizes are no longer read from a cache")
        return self.said(0, "no size but the capacity is read from a cache")


def _taken_elsewhere(
    edit: Editor, node: ir.Node, ids: ir.Value, past: ir.Value, sizes: list[int | None], axis: int
) -> bool:
    """Replaces one Shape node, unless it reads the capacity of the past alone."""
    begin, end, _ = slice(attribute(node, "start", 0), attribute(node, "end", len(sizes))).indices(len(sizes))
    if (begin, end) == (axis, axis + 1) and node.inputs[0] is past:
        return False
    parts: list[ir.Value] = []
    for place in range(begin, end):
        fixed = sizes[place]
        if fixed is not None:
            parts.append(edit.ints(fixed))
        else:
            source, at = (ids, 0) if place == 0 else (past, axis)
            parts += edit.before(node, "Shape", [source], {"start": at, "end": at + 1})
    if not parts:
        return False
    is_one = len(parts) == 1 and not node.outputs[0].is_graph_output()
    whole = parts[0] if is_one else edit.before(node, "Concat", parts, {"axis": 0})[0]
    whole.dtype = ir.DataType.INT64
    whole.shape = ir.Shape([len(parts)])
    replace_value(node.outputs[0], whole)
    return True
