# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Attention, RotaryEmbedding, RMSNormalization spelled out, for runtimes that read older opsets only."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    InlinePass,
    RemoveUnusedNodesPass,
)

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._edit import Editor, copy_type, replace_value
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import attribute, describe, input_at, is_constant, is_op, rank, static_dim, unsupported
from genai_iface.transform._raise_opset import raise_opset
from genai_iface.transform.convert._primitive_attention import PrimitiveAttention
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["PrimitiveOperators"]

_DEFINED = ("RotaryEmbedding", "RMSNormalization")
_OPSETS = range(18, 25)


class PrimitiveOperators(Rewrite):
    """Replaces the three operators of opset 23 by older ones and declares the oldest opset that holds all nodes.

    RotaryEmbedding and RMSNormalization become what ONNX itself defines them to be, Attention what PrimitiveAttention
    writes. DequantizeLinear is spelled out too where its input is not a weight but rows gathered from a quantized
    table, which few runtimes take in blocks.
    """

    name = "primitive-operators"

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place.

        Raises:
            UnsupportedModelError: An operator is used in a way that cannot be spelled out, or a size is not known.
        """
        infer_shapes(model)
        if _find_heads(model):
            infer_shapes(model)
        count = _inline_definitions(model)
        edit = Editor(model.graph, "primitive")
        attention = PrimitiveAttention(edit)
        for node in list(model.graph):
            if is_op(node, "Attention"):
                _replace(node, attention.spelled_out(node))
            elif is_op(node, "DequantizeLinear") and _reads_gathered_blocks(node):
                _replace(node, _dequantized(edit, node))
            else:
                continue
            count += 1
        RemoveUnusedNodesPass()(model)
        for opset in _OPSETS:
            try:
                raise_opset(model, opset)
            except UnsupportedModelError:
                continue
            break
        return self.said(count, f"{count} nodes spelled out, opset {model.graph.opset_imports.get('', 0)}")


def _find_heads(model: ir.Model) -> int:
    """Heads that a Reshape takes apart with a -1: ONNX's inference does not divide where other sizes are symbols.

    Returns:
        How many were found.
    """
    found = 0
    for node in model.graph:
        flat, apart = input_at(node, 0), node.outputs[0]
        if not is_op(node, "Reshape") or flat is None or rank(flat) != 3 or rank(apart) != 4:
            continue
        before, after = list(flat.shape or ()), list(apart.shape or ())
        # The number of elements stays, and so do the first two sizes.
        wide, size = static_dim(flat, 2), static_dim(apart, 3)
        if before[:2] == after[:2] and wide and size and wide % size == 0 and static_dim(apart, 2) is None:
            apart.shape = ir.Shape([*after[:2], wide // size, size])
            found += 1
    return found


def _inline_definitions(model: ir.Model) -> int:
    """Replaces calls of the operators that ONNX itself defines by their definitions."""
    imports = model.graph.opset_imports
    opset = imports.get("", imports.get("ai.onnx", 0))
    names: dict[bytes, str] = {}
    nodes = [node for node in model.graph if is_op(node, *_DEFINED)]
    for node in nodes:
        body = _definition(node, opset)
        # A definition depends on types and attributes: nodes with equal ones share it.
        node.overload = names.setdefault(body.SerializeToString(deterministic=True), f"{node.op_type}.{len(names)}")
        body.overload = node.overload
        function = ir.serde.deserialize_function(body)
        model.functions[function.identifier()] = function
    made = set(names.values())
    InlinePass(criteria=lambda function: function.overload in made)(model)
    IdentityEliminationPass()(model)
    return len(nodes)


def _definition(node: ir.Node, opset: int) -> onnx.FunctionProto:
    """The definition for a node's inputs and attributes.

    The node is inlined in a graph of its own: onnx.inliner takes models as bytes, of which protobuf holds 2 GB.
    """
    axes = rank(node.inputs[0]) if node.inputs[0] is not None else None
    if is_op(node, "RotaryEmbedding") and (axes not in (3, 4) or (axes == 3 and not attribute(node, "num_heads", 0))):
        raise unsupported(f"The {describe(node)} has an input of rank {axes}, or its heads are not known")
    call = ir.serde.serialize_node(node)
    call.input[:] = [f"input.{index}" for index in range(len(node.inputs))]
    call.output[:] = ["output"]
    given = [_declared(node, index, name) for index, name in enumerate(call.input)]
    graph = onnx.helper.make_graph([call], "call", given, [onnx.ValueInfoProto(name="output")])
    imports = [onnx.helper.make_opsetid("", opset)]
    alone = onnx.helper.make_model(graph, opset_imports=imports)
    body = onnx.inliner.inline_selected_functions(alone, [("", node.op_type)], inline_schema_functions=True).graph
    return onnx.helper.make_function("", node.op_type, call.input, call.output, body.node, imports)


def _declared(node: ir.Node, index: int, name: str) -> onnx.ValueInfoProto:
    """Type and shape of an input; what an operator unknown to ONNX gives is taken to have the type of the weights."""
    value, weights = input_at(node, index), input_at(node, 1)
    dtype = None if value is None else value.dtype
    if dtype is None and index == 0 and weights is not None:
        dtype = weights.dtype
    if value is None or dtype is None:
        raise unsupported(f"Input {index} of the {describe(node)} is absent, or its type is not known")
    sizes = None if value.shape is None else [size if isinstance(size, int) else size.value for size in value.shape]
    return onnx.helper.make_tensor_value_info(name, dtype.value, sizes)


def _replace(node: ir.Node, result: ir.Value) -> None:
    copy_type(node.outputs[0], result)
    result.shape = node.outputs[0].shape
    replace_value(node.outputs[0], result)


def _reads_gathered_blocks(node: ir.Node) -> bool:
    """Whether a DequantizeLinear takes rows of a table; whole weights stay, runtimes know them."""
    return attribute(node, "block_size", 0) > 0 and not is_constant(input_at(node, 0))


def _dequantized(edit: Editor, node: ir.Node) -> ir.Value:
    """The rows, block by block."""
    x, scale, zero = input_at(node, 0), input_at(node, 1), input_at(node, 2)
    axes = None if x is None else rank(x)
    if x is None or scale is None or axes is None:
        raise unsupported(f"The rank of what the {describe(node)} takes is not known")

    def add(kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return edit.before(node, kind, inputs, attributes)[0]

    axis, size = attribute(node, "axis", 1) % axes, attribute(node, "block_size", 0)
    within = edit.ints(axis + 1)
    shape, before = add("Shape", x), add("Shape", x, start=0, end=axis)
    after = add("Slice", shape, within, edit.ints(2**31 - 1))
    kind = (scale.dtype or ir.DataType.FLOAT).value
    blocks = add("Reshape", x, add("Concat", before, edit.ints(-1, size), after, axis=0))
    numbers = add("Cast", blocks, to=kind)
    if zero is not None:
        numbers = add("Sub", numbers, add("Unsqueeze", add("Cast", zero, to=kind), within))
    return add("Reshape", add("Mul", numbers, add("Unsqueeze", scale, within)), shape)
