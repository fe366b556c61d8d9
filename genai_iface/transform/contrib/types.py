# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Element types and shapes of single nodes, for graphs that say little about what lies between contrib operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from genai_iface.graph._edit import constant_tensor, copy_type
from genai_iface.graph._walk import is_op, op, static_dim
from genai_iface.transform._weights import sizes

__all__ = ["GROUPED", "type_outputs"]

GROUPED = "com.microsoft.GroupQueryAttention"
"""Attention over a shared buffer, which ``SharedCache`` replaces together with the cache."""


def type_outputs(node: ir.Node, opset: int) -> None:
    """Fills in what a node of the default domain, or a GroupQueryAttention, says about its outputs."""
    unknown = [output for output in node.outputs if output.dtype is None or output.shape is None]
    if op(node) == GROUPED:
        _of_attention(node)
    if is_op(node, "If"):
        _from_branches(node, opset)
    if not unknown or node.domain not in ("", "ai.onnx") or _has_graph(node):
        return
    if is_op(node, "Constant"):
        tensor = constant_tensor(node.outputs[0])
        if tensor is not None:
            node.outputs[0].dtype, node.outputs[0].shape = tensor.dtype, ir.Shape(sizes(tensor))
        return
    found = _inferred(node, opset)
    for output in unknown:
        _fill(output, found.get(str(output.name)))
    if is_op(node, "Reshape"):
        _as_long_as_target(node)


def _fill(output: ir.Value, given: onnx.TypeProto | None) -> None:
    """Element type and shape of a value, as far as they are given and not known."""
    if given is None or not given.HasField("tensor_type"):
        return
    if output.dtype is None and given.tensor_type.elem_type:
        output.dtype = ir.DataType(given.tensor_type.elem_type)
    if output.shape is None and given.tensor_type.HasField("shape"):
        output.shape = ir.serde.deserialize_type_proto_for_shape(given)


def _of_attention(node: ir.Node) -> None:
    """The result of GroupQueryAttention: (B, S, heads * size), of the type of its queries."""
    result, query = node.outputs[0], node.inputs[0]
    if result.dtype is None and query is not None:
        copy_type(query, result)
    if result.shape is None:
        result.shape = ir.Shape([None, None, None])


def _as_long_as_target(node: ir.Node) -> None:
    """As many axes as the target of a Reshape has numbers, whatever they are."""
    target = node.inputs[1]
    length = None if target is None else static_dim(target, 0)
    if node.outputs[0].shape is None and length is not None:
        node.outputs[0].shape = ir.Shape([None] * length)


def _inferred(node: ir.Node, opset: int) -> dict[str, onnx.TypeProto]:
    """What ONNX infers of a node's outputs, by their names; empty where it cannot."""
    known = {str(value.name): _type_of(value) for value in node.inputs if value is not None}
    try:
        found: dict[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset),
            ir.serde.serialize_node(node),
            known,
            _small_constants(node),
            opset_imports=[onnx.helper.make_opsetid("", opset)],
            ir_version=11,
        )
    except (onnx.defs.SchemaError, onnx.checker.ValidationError, InferenceError, RuntimeError, ValueError):
        # A type that is not known now is asked for later, or nobody needs it.
        return {}
    return found


def _from_branches(node: ir.Node, opset: int) -> None:
    """What both branches give; a size that differs stays open."""
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for output, one, other in zip(node.outputs, *(branch.outputs for branch in branches), strict=True):
        for value in (one, other):
            producer = value.producer()
            if producer is not None:
                type_outputs(producer, opset)
        if output.dtype is None and one.dtype == other.dtype is not None:
            copy_type(one, output)
        if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
            continue
        known = output.shape
        if known is None or not all(isinstance(size, int) for size in known):
            output.shape = ir.Shape([a if a == b else None for a, b in zip(one.shape, other.shape, strict=True)])


def _has_graph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _type_of(value: ir.Value) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    if value.dtype is None:
        return proto
    ir.serde.serialize_type_into(proto, ir.TensorType(value.dtype))
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto


def _small_constants(node: ir.Node) -> dict[str, onnx.TensorProto]:
    """Targets of Reshape, axes and the like, on which shapes depend."""
    found = {}
    for value in node.inputs:
        tensor = constant_tensor(value)
        if value is not None and tensor is not None and len(tensor.shape) <= 1 and tensor.size <= 16:
            found[str(value.name)] = ir.serde.serialize_tensor(tensor)
    return found
