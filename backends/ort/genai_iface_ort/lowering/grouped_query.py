# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RotaryEmbedding + TensorScatter + Attention -> GroupQueryAttention over a shared buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from genai_iface.graph import Editor, GraphSignature, copy_type, is_op, replace_value
from genai_iface.transform import Note, Rewrite
from genai_iface_ort.lowering.layers import Layer, Refused, read_layers
from genai_iface_ort.lowering.projections import flat_heads
from genai_iface_ort.lowering.windows import NO_WINDOW

__all__ = ["QUERY_SEQLENS", "GroupQuery"]

SEQLENS_K, TOTAL, QUERY_SEQLENS = "seqlens_k", "total_sequence_length", "query_seqlens"
_BIAS_INDEX, _HEAD_SINK_INDEX, _QUERY_SEQLENS_INDEX = 10, 11, 16


class GroupQuery(Rewrite):
    """Every layer's attention as one GroupQueryAttention; all layers or none.

    The cache becomes (B, Hkv, C, D), whatever it was: it is ours. New graph inputs are seqlens_k,
    total_sequence_length and, where the runtime has it, query_seqlens; write_indices,
    nonpad_kv_seqlen and position_ids go if nothing else reads them.

    Sinks, which a standard graph applies to the result, become the operator's own.

    Precondition: causal attention without a mask over linear TensorScatter caches, equal head sizes of
    keys and values, nonpad_kv_seqlen == write_indices + S. Rotation moves into the operator where it
    is by write_indices + s with constant tables; otherwise it stays outside.

    Args:
        signature: The graph's signature.
        device_kind: "cpu" or "cuda".
        has_query_seqlens: The runtime's operator has that input.
    """

    name = "group-query-attention"

    def __init__(self, signature: GraphSignature, *, device_kind: str = "cpu", has_query_seqlens: bool = True) -> None:
        super().__init__()
        self._before = signature
        self._device_kind = device_kind
        self._has_query_seqlens = has_query_seqlens
        self.signature = signature
        self.query_seqlens: str | None = None

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces the attention of all layers and renews the signature."""
        allowed = ("float16", "bfloat16") if self._device_kind == "cuda" else ("float32", "float16")
        dtypes = {layer.dtype for layer in self._before.cache.layers}
        if not dtypes <= set(allowed):
            return self.said(0, f"on {self._device_kind} the kernel does not take {' and '.join(sorted(dtypes))}")
        try:
            layers = read_layers(model, self._before)
        except Refused as refusal:
            return self.said(0, str(refusal))
        graph = model.graph
        edit = Editor(graph, "group_query")
        seqlens = edit.input(SEQLENS_K, ir.DataType.INT32, ["batch_of_cache"])
        total = edit.input(TOTAL, ir.DataType.INT32, [])
        chunk = None
        if self._has_query_seqlens:
            chunk = edit.input(QUERY_SEQLENS, ir.DataType.INT32, ["batch_of_cache"])
            self.query_seqlens = str(chunk.name)
        for layer in layers:
            _replace(edit, graph, layer, (seqlens, total, chunk))
        model.graph.opset_imports.setdefault("com.microsoft", 1)
        self.signature = self._renewed(model, str(seqlens.name), str(total.name))
        return self.said(len(layers), _summary(layers))

    def _renewed(self, model: ir.Model, seqlens: str, total: str) -> GraphSignature:
        """The signature of the new graph; inputs that nothing reads any more are taken out of the graph."""
        before = self._before
        graph = model.graph
        inputs, dtypes = dict(before.inputs), dict(before.input_dtypes)
        for role in ("write_indices", "nonpad_kv_seqlen", "position_ids"):
            name = inputs.get(role)
            value = next((value for value in graph.inputs if value.name == name), None)
            if value is not None and not _is_read(value, graph):
                graph.inputs.remove(value)
                del inputs[role], dtypes[role]
        inputs |= {"seqlens_k": seqlens, "total_sequence_length": total}
        dtypes |= {"seqlens_k": "int32", "total_sequence_length": "int32"}
        layers = tuple(dataclasses.replace(layer, capacity=None) for layer in before.cache.layers)
        cache = dataclasses.replace(before.cache, style="shared", layout="bnsh", layers=layers)
        return dataclasses.replace(before, inputs=inputs, input_dtypes=dtypes, cache=cache)


def _summary(layers: Sequence[Layer]) -> str:
    inside = sum(layer.rotary is not None for layer in layers)
    packed = sum(layer.packed is not None for layer in layers)
    outside = " and ".join(dict.fromkeys(layer.outside for layer in layers if layer.outside))
    parts = [
        f"{len(layers)} layers",
        f"{inside} with the rotation inside" + (f" (outside: {outside})" if outside else ""),
        f"{packed} from packed projections",
    ]
    for what, count in (
        ("with a window", sum(layer.window != NO_WINDOW for layer in layers)),
        ("with a soft cap", sum(layer.softcap != 0 for layer in layers)),
        ("with a bias", sum(layer.bias is not None for layer in layers)),
        ("with sinks", sum(layer.sink is not None for layer in layers)),
    ):
        parts += [f"{count} {what}"] if count else []
    return ", ".join(parts)


def _is_read(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether an output of the graph follows from the value."""
    pending, seen = [value], {id(value)}
    for current in pending:
        if current.is_graph_output():
            return True
        for node, _ in current.uses():
            for output in node.outputs:
                if id(output) not in seen:
                    seen.add(id(output))
                    pending.append(output)
    return False


def _replace(edit: Editor, graph: ir.Graph, layer: Layer, lengths: tuple[ir.Value, ir.Value, ir.Value | None]) -> None:
    seqlens, total, chunk = lengths
    node = layer.attention
    inputs: list[ir.Value | None] = [None] * (_QUERY_SEQLENS_INDEX + 1)
    if layer.packed is not None:
        inputs[0] = layer.packed
    else:
        parts = ((layer.query, layer.num_heads), (layer.key, layer.num_kv_heads), (layer.value, layer.num_kv_heads))
        inputs[:3] = [flat_heads(edit, node, part, layer.rank, heads * layer.head_dim) for part, heads in parts]
    inputs[3:7] = [layer.past_key, layer.past_value, seqlens, total]
    if layer.rotary is not None:
        inputs[7:9] = [layer.rotary.cos, layer.rotary.sin]
    inputs[_QUERY_SEQLENS_INDEX] = chunk
    if layer.bias is not None:
        inputs[_BIAS_INDEX] = _valid_columns(edit, node, layer.bias, total)
    if layer.sink is not None:
        dtype = layer.past_key.dtype or ir.DataType.FLOAT
        sinks = ir.Tensor(layer.sink.values.astype(dtype.numpy()), dtype=dtype)
        inputs[_HEAD_SINK_INDEX] = edit.weight("head_sink", sinks)
        ir.convenience.replace_all_uses_with(layer.sink.factor.outputs[0], layer.sink.untouched)
    while inputs[-1] is None:
        inputs.pop()
    attributes = {
        "num_heads": layer.num_heads,
        "kv_num_heads": layer.num_kv_heads,
        "scale": layer.scale,
        "softcap": layer.softcap,
        "local_window_size": layer.window,
        "do_rotary": int(layer.rotary is not None),
        "rotary_interleaved": int(layer.rotary is not None and layer.rotary.interleaved),
    }
    mixed, key, value = edit.before(node, "GroupQueryAttention", inputs, attributes, domain="com.microsoft", outputs=3)
    copy_type(layer.past_key, mixed)
    _renew_cache(graph, layer, key, value)
    mixed.shape = _result_shape(layer, inputs[2] or layer.packed)
    if layer.merged is not None:
        ir.convenience.replace_all_uses_with(layer.merged, mixed)
        return
    if layer.rank == 4:
        (split,) = edit.before(node, "Reshape", [mixed, edit.ints(0, 0, layer.num_heads, layer.head_dim)])
        (mixed,) = edit.before(node, "Transpose", [split], {"perm": [0, 2, 1, 3]})
    copy_type(layer.past_key, mixed)
    ir.convenience.replace_all_uses_with(node.outputs[0], mixed)


def _valid_columns(edit: Editor, node: ir.Node, bias: ir.Value, total: ir.Value) -> ir.Value:
    """The part of a bias (B, H, S, C) for the positions that some row has, which is what the kernel takes."""
    (wide,) = edit.before(node, "Cast", [total], {"to": ir.DataType.INT64.value})
    (end,) = edit.before(node, "Unsqueeze", [wide, edit.ints(0)])
    (part,) = edit.before(node, "Slice", [bias, edit.ints(0), end, edit.ints(3)])
    copy_type(bias, part)
    return part


def _result_shape(layer: Layer, rows: ir.Value | None) -> ir.Shape | None:
    """(B, S, heads * D), with B and S as the projections have them."""
    if rows is None or rows.shape is None or len(rows.shape) != 3:
        return None
    return ir.Shape([rows.shape[0], rows.shape[1], layer.num_heads * layer.head_dim])


def _renew_cache(graph: ir.Graph, layer: Layer, key: ir.Value, value: ir.Value) -> None:
    """The operator's outputs take the names and places of the cache's; shapes are those of one layout."""
    shape: list[int | str] = ["batch_of_cache", layer.num_kv_heads, "cache_capacity", layer.head_dim]
    for past, present, new in (
        (layer.past_key, layer.present_key, key),
        (layer.past_value, layer.present_value, value),
    ):
        for reader, _ in past.uses():
            if is_op(reader, "Shape"):
                # It asks for the capacity, wherever that was.
                reader.attributes["start"], reader.attributes["end"] = ir.AttrInt64("start", 2), ir.AttrInt64("end", 3)
        past.shape = ir.Shape(shape)
        new.shape = ir.Shape(shape)
        copy_type(past, new)
        replace_value(present, new)
