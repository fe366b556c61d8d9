# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads TensorScatter attention layers as GroupQueryAttention would compute them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from genai_iface.graph import (
    GraphSignature,
    attribute,
    constant_tensor,
    describe,
    input_at,
    is_op,
    is_transpose,
    output_at,
    rank,
    static_dim,
)
from genai_iface_ort.lowering.positions import are_positions, are_valid_lengths, are_write_indices
from genai_iface_ort.lowering.projections import (
    follows_rotation,
    packed_source,
    rotation_of,
    width_before_heads,
)
from genai_iface_ort.lowering.sinks import NotASink, Sink, sink_of
from genai_iface_ort.lowering.windows import NO_WINDOW, is_bias, window_of

__all__ = ["Layer", "Refused", "Rotary", "read_layers"]

_FLOAT = 1


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """A precondition failed; the message says which."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """A rotation that the operator can do itself.

    Attributes:
        cos, sin: Constant tables (positions, rotated part / 2).
        interleaved: Pairs are neighbours, not halves.
    """

    cos: ir.Value
    sin: ir.Value
    interleaved: bool


@dataclass(slots=True)
class Layer:
    """One layer's attention.

    Attributes:
        attention: The node that computes it.
        query, key, value: New tokens, (B, S, heads * D) or (B, heads, S, D), rotated unless ``rotary`` is set.
        past_key, past_value, present_key, present_value: Graph inputs and outputs.
        num_heads, num_kv_heads, head_dim: Query heads, key/value heads, and the size of one head.
        scale: Factor on the scores; 0 for the default.
        softcap: 0 for none.
        window: Keys that a query sees, its own among them; -1 for all.
        rotary: The rotation to do inside, None to leave it outside.
        packed: Queries, keys and values in one tensor, None if they are apart.
        merged: The value (B, S, heads * D) after the attention's own rank-4 output, None if there is none.
        rank: Rank of the attention's inputs and result.
        outside: Why a rotation stays outside; empty if it does not.
        sink: What one more logit of each head takes from the softmax, None if there is none.
        bias: What is added to the scores, (B, heads, S, C), None if nothing is.
    """

    attention: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    past_key: ir.Value
    past_value: ir.Value
    present_key: ir.Value
    present_value: ir.Value
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    softcap: float
    window: int
    rotary: Rotary | None
    packed: ir.Value | None
    merged: ir.Value | None
    rank: int
    outside: str = ""
    sink: Sink | None = None
    bias: ir.Value | None = None


def read_layers(model: ir.Model, signature: GraphSignature) -> list[Layer]:
    """Reads every layer.

    Raises:
        Refused: One of them is not what GroupQueryAttention computes.
    """
    cache = signature.cache
    if cache.style != "scatter":
        raise Refused(f"the cache is of style {cache.style}")
    if cache.is_circular:
        raise Refused("a layer's cache is circular")
    values = ir.convenience.create_value_mapping(model.graph)
    reader = _Reader(model, signature)
    layers = []
    for key, value in zip(signature.cache_tensors[0::2], signature.cache_tensors[1::2], strict=True):
        spec = cache.layers[key.layer]
        if spec.key_head_dim != spec.value_head_dim:
            raise Refused(f"layer {key.layer} has keys of size {spec.key_head_dim}, values of {spec.value_head_dim}")
        if spec.key_head_dim % 8:
            raise Refused(f"the head size {spec.key_head_dim} is not a multiple of 8")
        ends = (values[key.past], values[key.present], values[value.past], values[value.present])
        layers.append(reader.read(ends, spec.num_kv_heads, spec.key_head_dim))
    return layers


class _Reader:
    """Reads one layer after the other; remembers what was shown about positions and lengths."""

    def __init__(self, model: ir.Model, signature: GraphSignature) -> None:
        self._model, self._signature = model, signature
        self._axis = 2 if signature.cache.layout == "bnsh" else 1
        self._shown: dict[tuple[str, int], bool] = {}
        self._windows: dict[tuple[int, bool], int | None] = {}
        self._biases: dict[int, bool] = {}

    def read(self, ends: tuple[ir.Value, ir.Value, ir.Value, ir.Value], kv_heads: int, head_dim: int) -> Layer:
        """Reads the layer of these cache tensors."""
        past_key, present_key, past_value, present_value = ends
        key_scatter, value_scatter = self._scatter(past_key, present_key), self._scatter(past_value, present_value)
        attention = self._attention(present_key, present_value)
        query = attention.inputs[0]
        key, value = key_scatter.inputs[1], value_scatter.inputs[1]
        if query is None or key is None or value is None:
            raise Refused(f"an input of the {describe(attention)} is missing")
        axes = rank(query) or (4 if self._axis == 2 else 3)
        heads = attribute(attention, "q_num_heads", 0) if axes == 3 else self._heads(query, attention, head_dim)
        sink = self._sink(attention, heads)
        window, bias = self._window(attention, heads)
        layer = Layer(
            attention=attention,
            query=query,
            key=key,
            value=value,
            past_key=past_key,
            past_value=past_value,
            present_key=present_key,
            present_value=present_value,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            scale=attribute(attention, "scale", 0.0),
            softcap=attribute(attention, "softcap", 0.0),
            window=window,
            rotary=None,
            packed=None,
            merged=_merged(attention, axes, heads * head_dim, sink),
            rank=axes,
            sink=sink,
            bias=bias,
        )
        layer.outside = self._take_in_rotation(layer)
        layer.packed = packed_source((layer.query, layer.key, layer.value), layer.rank)
        return layer

    def _scatter(self, past: ir.Value, present: ir.Value) -> ir.Node:
        node = present.producer()
        if node is None or not is_op(node, "TensorScatter") or node.inputs[0] is not past:
            raise Refused(f"{present.name!r} is not written by a TensorScatter into {past.name!r}")
        if any(reader is not node and not self._asks_capacity(reader) for reader, _ in past.uses()):
            raise Refused(f"{past.name!r} has another reader")
        axes = 4 if self._axis == 2 else 3
        if attribute(node, "axis", -2) % axes != self._axis or attribute(node, "mode", "linear") != "linear":
            raise Refused(f"the {describe(node)} is not linear along the sequence")
        if not self._is("write", input_at(node, 2)):
            raise Refused(f"write_indices of the {describe(node)} are not the graph input")
        return node

    def _asks_capacity(self, node: ir.Node) -> bool:
        """Whether a node reads nothing of a cache but its number of positions."""
        wanted = (self._axis, self._axis + 1)
        return is_op(node, "Shape") and (attribute(node, "start", 0), attribute(node, "end", -1)) == wanted

    def _attention(self, key: ir.Value, value: ir.Value) -> ir.Node:
        readers = {node for cache in (key, value) for node, _ in cache.uses()}
        node = readers.pop() if len(readers) == 1 else None
        if (
            node is None
            or not is_op(node, "Attention")
            or input_at(node, 1) is not key
            or input_at(node, 2) is not value
        ):
            raise Refused(f"{key.name!r} and {value.name!r} are not read by one Attention alone")
        if any(input_at(node, index) is not None for index in (4, 5)):
            raise Refused(f"the {describe(node)} has a past of its own")
        if any(output_at(node, index) is not None for index in (1, 2)):
            raise Refused(f"the {describe(node)} gives more than its result")
        if attribute(node, "softmax_precision", _FLOAT) != _FLOAT:
            raise Refused(f"the {describe(node)} asks for another softmax precision")
        if not self._is("nonpad", input_at(node, 6)):
            raise Refused(f"nonpad_kv_seqlen of the {describe(node)} is not shown to be write_indices + S")
        return node

    def _sink(self, attention: ir.Node, heads: int) -> Sink | None:
        try:
            return sink_of(attention, heads)
        except NotASink as answer:
            raise Refused(str(answer)) from None

    def _window(self, attention: ir.Node, heads: int) -> tuple[int, ir.Value | None]:
        """Keys that a query sees, by the operator's attributes and its mask; and the mask, if it is a bias instead."""
        left, right = attribute(attention, "left_window_size", -1), attribute(attention, "right_window_size", -1)
        if right not in (-1, 0):
            raise Refused(f"the {describe(attention)} looks ahead")
        is_causal = attribute(attention, "is_causal", 0) == 1 or right == 0
        mask, bias = input_at(attention, 3), None
        if mask is None and not is_causal:
            raise Refused(f"the {describe(attention)} is not causal")
        windows = [left + 1] if left >= 0 else []
        if mask is not None:
            key = (id(mask), is_causal)
            if key not in self._windows:
                self._windows[key] = window_of(self._model, self._signature, mask, is_causal=is_causal)
            shown = self._windows[key]
            bias = mask if shown is None and is_causal and self._adds(mask, heads) else None
            if shown is None and bias is None:
                raise Refused(f"the mask of the {describe(attention)} is not shown to be causal or a sliding window")
            windows += [shown] if shown not in (None, NO_WINDOW) else []
        return min(windows, default=NO_WINDOW), bias

    def _adds(self, mask: ir.Value, heads: int) -> bool:
        """Whether a mask is a bias of the scores."""
        if id(mask) not in self._biases:
            self._biases[id(mask)] = is_bias(self._model, self._signature, mask, heads=heads)
        return self._biases[id(mask)]

    def _heads(self, query: ir.Value, attention: ir.Node, head_dim: int) -> int:
        """Heads of a rank-4 query: as its shape says, or as the width of what was split into heads does."""
        size = static_dim(query, 1)
        width = None if size is not None else width_before_heads(query)
        if size is None and (width is None or width % head_dim):
            raise Refused(f"the number of heads of the {describe(attention)} is not known")
        return size if size is not None else (width or 0) // head_dim

    def _take_in_rotation(self, layer: Layer) -> str:
        """Moves the rotation of queries and keys inside; says why where it stays outside, nothing if there is none."""
        ends = [rotation_of(value, layer.rank) for value in (layer.query, layer.key)]
        nodes = [node for node, _ in ends]
        if None in nodes:
            return (
                "queries or keys are changed after it" if any(map(follows_rotation, (layer.query, layer.key))) else ""
            )
        query, key = (node for node in nodes if node is not None)
        mine, its = self._rotary(query, layer.head_dim), self._rotary(key, layer.head_dim)
        if isinstance(mine, str) or isinstance(its, str):
            return mine if isinstance(mine, str) else str(its)
        if mine != its:
            return "queries and keys are rotated by different tables"
        layer.rotary = mine
        layer.query, layer.key = (source for _, source in ends)
        return ""

    def _rotary(self, node: ir.Node, head_dim: int) -> Rotary | str:
        """The rotation of a node, or why the operator cannot do it."""
        interleaved = bool(attribute(node, "interleaved", 0))
        tables: list[ir.Value] = []
        positions = input_at(node, 3)
        for index in (1, 2):
            table = input_at(node, index)
            if positions is None:
                lookup = None if table is None else table.producer()
                if lookup is None or not is_op(lookup, "Gather") or attribute(lookup, "axis", 0) != 0:
                    return "its angles are computed in the graph"
                table, where = lookup.inputs[0], lookup.inputs[1]
            else:
                where = positions
            tensor = constant_tensor(table)
            if table is None or tensor is None or len(tensor.shape) != 2:
                return "its tables are not constant"
            if not self._is("positions", where):
                return "its positions are not shown to be write_indices + 0..S-1"
            tables.append(table)
        part = attribute(node, "rotary_embedding_dim", 0)
        widths = {constant.shape[1] for table in tables if (constant := constant_tensor(table)) is not None}
        if widths != {(part or head_dim) // 2}:
            return "its tables have another width than what it turns"
        # The kernel rotates 16 numbers at a time; smaller ones are rotated before it.
        if head_dim % 16 or part % 16:
            return f"it turns {part or head_dim} of {head_dim} numbers, the kernel takes multiples of 16"
        return Rotary(tables[0], tables[1], interleaved)

    def _is(self, what: str, value: ir.Value | None) -> bool:
        """Whether a value is the write indices, the valid lengths, or the positions of the step."""
        if value is None:
            return False
        key = (what, id(value))
        if key not in self._shown:
            shows = {"write": are_write_indices, "nonpad": are_valid_lengths, "positions": are_positions}[what]
            self._shown[key] = shows(self._model, self._signature, value)
        return self._shown[key]


def _merged(attention: ir.Node, axes: int, width: int, sink: Sink | None) -> ir.Value | None:
    """The (B, S, H * D) that a Transpose and a Reshape make of a rank-4 result, a sink's factor between them or not."""
    output = attention.outputs[0]
    if axes == 3:
        return output
    uses = tuple(output.uses())
    turn = uses[0].node if len(uses) == 1 else None
    if turn is None or not is_transpose(turn, (0, 2, 1, 3)):
        return None
    heads = turn.outputs[0] if sink is None else sink.factor.outputs[0]
    uses = tuple(heads.uses())
    merge = uses[0].node if len(uses) == 1 else None
    if merge is None or not is_op(merge, "Reshape"):
        return None
    rows = merge.outputs[0]
    sizes = {static_dim(rows, 2), *(_rows_of_matrix(node) for node, index in rows.uses() if index == 0)}
    return rows if sizes - {None} == {width} else None


def _rows_of_matrix(node: ir.Node) -> int | None:
    """The width of what a product takes, as its matrix says."""
    matrix = input_at(node, 1) if is_op(node, "MatMul") else None
    return None if matrix is None else static_dim(matrix, 0)
