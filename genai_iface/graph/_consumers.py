# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What an input of the graph ends up in: lookups, rotations, masks, lengths.

The walk follows values through arithmetic on indices and masks and stops at *sinks*, where the
meaning shows. It does not follow Shape: that an input gives the batch size says nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from genai_iface.graph._attention import OPERATORS
from genai_iface.graph._walk import LONGEST_PATH, constant_ints, constant_shape, input_at, is_constant, is_op, op

__all__ = ["Consumer", "Sink", "consumers", "table_rows"]

Sink: TypeAlias = Literal["write", "nonpad", "seqlens", "total", "lookup", "rotation", "mask"]
"""Where a walk ends.

- write: TensorScatter's write_indices.
- nonpad, seqlens, total: the lengths that attention operators take.
- lookup: the indices of a Gather from a weight, quantized or not.
- rotation: RotaryEmbedding's positions, or the angles of Cos and Sin.
- mask: an attention operator's mask, or scores on their way into a Softmax.
"""

# Operators that the walk goes through, and by which inputs; None for every input.
_THROUGH: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Identity", "Cast", "CastLike", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten"), (0,)),
    **dict.fromkeys(
        ("Expand", "Tile", "Slice", "Split", "Gather", "GatherND", "GatherElements", "Trilu", "Clip"), (0,)
    ),
    **dict.fromkeys(("CumSum", "ReduceSum", "ReduceMax", "ReduceMin", "Pad", "ScatterND", "ScatterElements"), (0,)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Neg", "Abs", "Pow", "Floor", "Range"), None),
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Not", "And", "Or", "Xor"), None),
    **dict.fromkeys(("Where", "Concat", "BitwiseAnd", "BitwiseOr", "BitwiseNot"), None),
}
_COUNTING = frozenset({"CumSum", "ReduceSum"})
_FIXED_INPUTS: dict[tuple[str, int], Sink] = {
    ("TensorScatter", 2): "write",
    ("RotaryEmbedding", 3): "rotation",
    ("com.microsoft.RotaryEmbedding", 1): "rotation",
    ("Cos", 0): "rotation",
    ("Sin", 0): "rotation",
    ("Softmax", 0): "mask",
}
_LIMIT = 20_000
_QUANTIZED_GATHER = "com.microsoft.GatherBlockQuantized"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One sink that an input leads to.

    Attributes:
        sink: What it is.
        node: The node that reads it.
        counted: The value went through a sum, as a mask does that is turned into lengths or positions.
        rows: For a lookup, the rows that this input can index, otherwise None.
        via: Names of the operators on the way, for evidence.
    """

    sink: Sink
    node: ir.Node
    counted: bool
    rows: int | None
    via: tuple[str, ...]


def consumers(*values: ir.Value) -> list[Consumer]:
    """All sinks of graph inputs, nearest first; no more once the walk has become very long."""
    found: list[Consumer] = []
    pending: list[tuple[ir.Value, bool, tuple[str, ...]]] = [(value, False, ()) for value in values]
    seen = {(id(value), False) for value in values}
    weights: dict[ir.Value | None, bool] = {}
    steps = 0
    for current, counted, via in pending:
        for node, index in current.uses():
            steps += 1
            if steps > _LIMIT:
                return found
            sink = _sink(node, index, weights)
            if sink is not None:
                rows = table_rows(node) if sink == "lookup" else None
                found.append(Consumer(sink, node, counted, rows, via))
            elif _goes_through(node, index, weights):
                now = counted or is_op(node, *_COUNTING)
                for output in node.outputs:
                    if (id(output), now) not in seen:
                        seen.add((id(output), now))
                        pending.append((output, now, (*via, op(node)) if len(via) < 8 else via))
    return found


def _sink(node: ir.Node, index: int, weights: dict[ir.Value | None, bool]) -> Sink | None:
    operator = OPERATORS.get(op(node))
    if operator is None:
        if is_op(node, "Gather", _QUANTIZED_GATHER) and index == 1 and _is_weight(input_at(node, 0), weights):
            return "lookup"
        return _FIXED_INPUTS.get((op(node), index))
    inputs: dict[int | None, Sink] = dict.fromkeys(operator.masks, "mask")
    inputs |= {operator.nonpad: "nonpad", operator.seqlens: "seqlens", operator.total: "total"}
    inputs |= {operator.positions: "rotation"}
    return inputs.get(index)


def _is_weight(value: ir.Value | None, known: dict[ir.Value | None, bool]) -> bool:
    """Whether a value is constant; found once for each value of a walk."""
    if value not in known:
        known[value] = constant_shape(value) is not None or is_constant(value)
    return known[value]


def _goes_through(node: ir.Node, index: int, weights: dict[ir.Value | None, bool]) -> bool:
    if is_op(node, "MatMul", "Einsum"):
        # Positions times inverse frequencies; a hidden state never gets here, Gather is a sink.
        return len(node.inputs) == 2 and _is_weight(input_at(node, 1 - index), weights)
    name = op(node)
    if name not in _THROUGH:
        return False
    inputs = _THROUGH[name]
    return inputs is None or index in inputs


def table_rows(node: ir.Node) -> int | None:
    """The positions or ids that a Gather from a weight accepts; less what is added to the index."""
    data, index = input_at(node, 0), input_at(node, 1)
    if is_op(node, _QUANTIZED_GATHER):
        # Its scales have the rows of the table; the table itself may be packed, or shared in another shape.
        data = input_at(node, 2)
    shape = constant_shape(data)
    if shape is None:
        # Exporters slice or squeeze a rotary table before they index it: the weight's longest axis but one.
        for _ in range(LONGEST_PATH):
            producer = None if data is None else data.producer()
            if data is None or producer is None or is_op(producer, "Constant"):
                break
            data = input_at(producer, 0)
        shape = constant_shape(data)
        shape = None if shape is None else tuple(size for size in shape if size != 1)
    if not shape:
        return None
    given = node.attributes.get("gather_axis" if is_op(node, _QUANTIZED_GATHER) else "axis")
    axis = given.value if given is not None and isinstance(given.value, int) else 0
    rows = shape[axis] if -len(shape) <= axis < len(shape) else shape[0]
    for _ in range(8):
        producer = None if index is None else index.producer()
        if producer is None or not is_op(producer, "Add", "Cast", "Identity"):
            break
        offset = constant_ints(input_at(producer, 1)) if is_op(producer, "Add") else None
        if offset is not None and len(offset) == 1:
            rows -= max(offset[0], 0)
        index = input_at(producer, 0)
    return rows
