# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Computes logits only at the positions that are asked for."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor, copy_type, same_dims
from genai_iface.graph._walk import attribute, is_constant, is_op, rank, static_dim, trace_back
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["LOGITS_POSITIONS", "SelectLogits"]

LOGITS_POSITIONS = "logits_positions"
"""Name of the new graph input: int64 (B, K), columns of input_ids, by row."""

# Each output row of these follows from the same row of their inputs, if the constants allow it.
_UNARY = frozenset({"Identity", "Cast", "Tanh", "Sigmoid", "Neg", "Relu", "Gelu", "Swish", "Erf", "Exp", "Sqrt", "Abs"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"})
_NORMS = frozenset({"RMSNormalization", "LayerNormalization"})
# What ONNX Runtime's tools write for a MatMul with int4 weights.
_QUANTIZED_MATMUL = "com.microsoft.MatMulNBits"


class SelectLogits(Rewrite):
    """Adds a graph input with positions and gathers them as early as that is exact.

    Operators that treat every position by itself commute with the gather. It is moved up through
    them: LM head, last norm, the last layer's MLP and output projection, as far as they are shown
    to be such operators. Logits become (B, K, V).

    Precondition: logits have the shape (B, S, V) with S that of input_ids, and at least the LM head
    is such an operator.

    Args:
        signature: The graph's signature.
    """

    name = "select-logits"

    def __init__(self, signature: GraphSignature) -> None:
        super().__init__()
        self._signature = signature

    def rewrite(self, model: ir.Model) -> Note:
        """Gathers at the frontier of the row-wise part."""
        graph = model.graph
        logits = next(value for value in graph.outputs if value.name == self._signature.logits)
        ids = next((value for value in graph.inputs if value.name == self._signature.inputs.get("input_ids")), None)
        if ids is None or rank(ids) != 2:
            return self.said(0, "the graph has no input_ids of rank 2")
        if rank(logits) != 3 or (static_dim(logits, 1) == 1 and static_dim(ids, 1) != 1):
            return self.said(0, f"logits have the shape {logits.shape}, expected (B, S, V)")
        if _slices_rows(logits):
            return self.said(0, "the graph selects rows by itself")
        inside, frontier = _row_wise(graph, logits, ids)
        if not inside:
            producer = logits.producer()
            kind = "nothing" if producer is None else producer.op_type
            return self.said(0, f"{kind} gives the logits and is not known to work row by row")
        _gather(graph, frontier, inside)
        for node in inside:
            for output in node.outputs:
                output.shape = _with_rows(output.shape)
        stage = ", ".join(sorted({str(value.name) for value in frontier}))
        return self.said(len(inside), f"{len(inside)} nodes run at the asked positions only, from {stage} on")


def _gather(graph: ir.Graph, frontier: list[ir.Value], inside: set[ir.Node]) -> None:
    edit = Editor(graph, "select_logits")
    positions = edit.input(LOGITS_POSITIONS, ir.DataType.INT64, ["batch_of_logits", "logits_rows"])
    order = {node: index for index, node in enumerate(graph)}
    users = {value: [(node, index) for node, index in value.uses() if node in inside] for value in frontier}
    first = min((node for uses in users.values() for node, _ in uses), key=lambda node: order[node])
    (indices,) = edit.before(first, "Unsqueeze", [positions, edit.ints(2)])
    for value, uses in users.items():
        place = min((node for node, _ in uses), key=lambda node: order[node])
        (rows,) = edit.before(place, "GatherND", [value, indices], {"batch_dims": 1})
        copy_type(value, rows)
        rows.shape = _with_rows(value.shape)
        for node, index in uses:
            node.replace_input_with(index, rows)


def _row_wise(graph: ir.Graph, logits: ir.Value, ids: ir.Value) -> tuple[set[ir.Node], list[ir.Value]]:
    """The nodes before the logits that work row by row, and the values that they read from the others."""
    inside: set[ir.Node] = set()
    frontier: dict[ir.Value, None] = {}
    for node in reversed(graph):
        # What is read elsewhere too would have to be computed twice.
        if _only_for(node, logits, inside) and _sources(node, ids) is not None:
            inside.add(node)
    for node in inside:
        frontier |= dict.fromkeys(source for source in _sources(node, ids) or () if source.producer() not in inside)
    return inside, list(frontier)


def _only_for(node: ir.Node, logits: ir.Value, inside: set[ir.Node]) -> bool:
    """Whether everything that reads the node's outputs is inside, and something does."""
    if logits in node.outputs:
        return not logits.uses()
    users = [user for output in node.outputs for user, _ in output.uses()]
    return bool(users) and all(user in inside for user in users) and not any(o.is_graph_output() for o in node.outputs)


def _sources(node: ir.Node, ids: ir.Value) -> list[ir.Value] | None:
    """The row-wise inputs of a node, None if it mixes rows or is not known not to."""
    first = node.inputs[0] if node.inputs else None
    if first is None or is_constant(first) or rank(first) not in (3, None):
        return _binary_sources(node, ids) if first is not None and is_op(node, *_BINARY) else None
    if is_op(node, *_UNARY):
        return [first]
    if is_op(node, "Split"):
        return [first] if attribute(node, "axis", 0) in (-1, 2) else None
    if is_op(node, "MatMul"):
        weight = node.inputs[1]
        return [first] if is_constant(weight) and _weight_rank(weight) == 2 else None
    if is_op(node, _QUANTIZED_MATMUL):
        return [first] if all(is_constant(source) for source in node.inputs[1:] if source) else None
    if is_op(node, *_NORMS):
        last = attribute(node, "axis", -1) in (-1, 2)
        return [first] if last and all(is_constant(source) for source in node.inputs[1:] if source) else None
    return _binary_sources(node, ids) if is_op(node, *_BINARY) else None


def _binary_sources(node: ir.Node, ids: ir.Value) -> list[ir.Value] | None:
    sources = [source for source in node.inputs if source is not None]
    constants = [source for source in sources if is_constant(source)]
    dynamic = [source for source in sources if not is_constant(source)]
    if not dynamic or not all(_is_one_row(constant) for constant in constants):
        return None
    if len(dynamic) == 1 and rank(dynamic[0]) != 3:
        return None
    if len(dynamic) == 2 and not all(_has_all_rows(source, ids) for source in dynamic):
        return None
    return dynamic


def _weight_rank(value: ir.Value | None) -> int | None:
    if value is None:
        return None
    axes = rank(value)
    if axes is not None:
        return axes
    origin = trace_back(value, ("Identity", "Cast", "Transpose", "DequantizeLinear"))
    tensor = None if origin is None else origin.const_value
    return None if tensor is None else len(tensor.shape)


def _is_one_row(value: ir.Value) -> bool:
    """Whether a constant is the same for every row: a scalar, (V,), (1, V), (1, 1, V)."""
    shape = value.shape if value.shape is not None else None if value.const_value is None else value.const_value.shape
    return shape is not None and len(shape) <= 3 and all(size == 1 for size in list(shape)[:-1])


def _has_all_rows(value: ir.Value, ids: ir.Value) -> bool:
    """Whether the value is known to be (B, S, ...) in full, not broadcast along B or S."""
    if value.shape is None or rank(value) != 3:
        return False
    return same_dims(ir.Value(name="front", shape=ir.Shape(list(value.shape)[:2])), ids)


def _slices_rows(logits: ir.Value) -> bool:
    """Whether the graph itself keeps some positions only, on the way from the hidden state to the logits."""
    value: ir.Value | None = logits
    for _ in range(32):
        node = None if value is None else value.producer()
        if node is None:
            return False
        if is_op(node, "Slice", "Gather", "GatherND", "GatherElements", "Compress"):
            return True
        if not is_op(node, *_UNARY, *_BINARY, *_NORMS, "MatMul", _QUANTIZED_MATMUL):
            return False
        dynamic = [source for source in node.inputs if source is not None and not is_constant(source)]
        value = dynamic[0] if len(dynamic) == 1 else None
    return False


def _with_rows(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None or len(shape) != 3 else ir.Shape([shape[0], "logits_rows", shape[2]])
