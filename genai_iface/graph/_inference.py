# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Shape inference that costs by the size of the graph, whatever numbers stand in it.

ONNX follows the elements of vectors ("data propagation"), for a Reshape's target is one. It does so for vectors of any
length, one by one; a graph of five nodes can name a vector of 2 ** 31. So lengths are found first, without elements.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from genai_iface.graph._walk import input_at, is_op, rank, static_dim

__all__ = ["infer_shapes"]

# Inference that fails leaves shapes unknown, which every rewrite expects; it is no news for who loads a model.
logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.CRITICAL)

# Shapes are vectors of a few elements; a million of them are followed in about a second.
_LONGEST_VECTOR = 2**16
_MOST_ELEMENTS = 2**21
_HIDDEN = "genai_iface.hidden"
# None of these makes a vector that is longer than all that it reads together.
_BOUNDED = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Concat", "Div", "Equal", "Gather", "Greater", "Identity", "Less", "Max", "Min"),
        *("Mod", "Mul", "Neg", "Not", "Or", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
    }
)


def infer_shapes(model: ir.Model) -> None:
    """Fills in shapes as far as they follow; weights are not copied. Where inference fails, they stay unknown."""
    hidden = _long_vectors(model)
    if hidden is None:
        _infer(model, elements=False)
        return
    with _hidden(model, hidden):
        _infer(model, elements=True)


def _infer(model: ir.Model, *, elements: bool) -> None:
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=elements)(model)


def _long_vectors(model: ir.Model) -> list[ir.Node] | None:
    """The nodes that might make long vectors; None if there are long ones for sure."""
    # Symbols that this invents for sizes would stand in the way of those that elements give.
    before = [(value, value.shape) for node in model.graph.all_nodes() for value in node.outputs]
    _infer(model, elements=False)
    ranks = _lengths_of_ranks(model)
    if ranks:
        _infer(model, elements=False)
    lengths = [length for value in _vectors(model) if (length := static_dim(value, 0)) is not None]
    too_long = max(lengths, default=0) > _LONGEST_VECTOR or sum(lengths) > _MOST_ELEMENTS
    unknown = [] if too_long else [node for node in model.graph.all_nodes() if _may_make_a_long_vector(node)]
    declared = {value for node in unknown for value in node.outputs if rank(value) == 1} | ranks
    for value, shape in before:
        if value not in declared:
            value.shape = shape
    return None if too_long else unknown


def _vectors(model: ir.Model) -> Iterator[ir.Value]:
    made = (value for node in model.graph.all_nodes() for value in node.outputs)
    return (value for value in (*model.graph.inputs, *made) if rank(value) == 1)


def _lengths_of_ranks(model: ir.Model) -> set[ir.Value]:
    """Gives each ``ConstantOfShape(Shape(v))`` its length, which is v's when v is a vector.

    Exporters write it to build the target of an Expand, whose rank would else be unknown.
    """
    found = set()
    for node in model.graph.all_nodes():
        source = input_at(node, 0) if is_op(node, "ConstantOfShape") else None
        shape = None if source is None else source.producer()
        vector = input_at(shape, 0) if shape is not None and is_op(shape, "Shape") and not shape.attributes else None
        if vector is None or rank(vector) != 1 or static_dim(node.outputs[0], 0) is not None:
            continue
        length = static_dim(vector, 0)
        if length is not None:
            node.outputs[0].shape = ir.Shape([length])
            found.add(node.outputs[0])
    return found


def _may_make_a_long_vector(node: ir.Node) -> bool:
    """Whether the elements of other vectors would tell that this node makes one, of a length that is unknown so far."""
    if all(rank(value) not in (None, 1) or static_dim(value, 0) is not None for value in node.outputs):
        return False
    return node.op_type not in _BOUNDED or any(rank(value) not in (0, 1) for value in node.inputs if value is not None)


@contextmanager
def _hidden(model: ir.Model, nodes: Iterable[ir.Node]) -> Iterator[None]:
    """Makes nodes unknown to ONNX for a while: of what they make, it takes the shape that is declared."""
    hidden = [(node, node.domain) for node in nodes]
    try:
        model.opset_imports[_HIDDEN] = 1
        for node, _ in hidden:
            node.domain = _HIDDEN
        yield
    finally:
        del model.opset_imports[_HIDDEN]
        for node, domain in hidden:
            node.domain = domain
