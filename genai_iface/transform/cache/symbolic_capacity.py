# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the capacity of the cache symbolic, so that a runtime may choose it and let it grow."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from genai_iface.graph._attention import OPERATORS
from genai_iface.graph._edit import constant_tensor
from genai_iface.graph._walk import describe, input_at, is_op, op, rank, static_dim
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["SymbolicCapacity"]

_SYMBOL = "cache_capacity"
_LIMIT = 4096
# Operators whose output has the positions of their first input.
_SAME_VALUES = ("Transpose", "Expand", "Unsqueeze", "Reshape", "Cast", "Identity", "DequantizeLinear")


class SymbolicCapacity(Rewrite):
    """Replaces the number of positions in the shapes of linear caches by a symbol.

    Precondition: nothing else in the graph depends on the number. Circular layers keep theirs: the
    window is part of the model.

    Args:
        signature: The graph's signature; style "scatter" or "shared".
    """

    name = "symbolic-capacity"

    def __init__(self, signature: GraphSignature) -> None:
        super().__init__()
        self._signature = signature

    def rewrite(self, model: ir.Model) -> Note:
        """Changes shapes only; all layers or none."""
        cache = self._signature.cache
        if cache.style == "concat":
            return self.said(0, "the cache is of style concat, its length is not fixed")
        axis = 2 if cache.layout == "bnsh" else 1
        values = ir.convenience.create_value_mapping(model.graph)
        fixed: list[tuple[ir.Value, ir.Value, int]] = []
        for tensor in self._signature.cache_tensors:
            capacity = cache.layers[tensor.layer].capacity
            if capacity is None or cache.layers[tensor.layer].mode == "circular":
                continue
            fixed.append((values[tensor.past], values[tensor.present], capacity))
        if not fixed:
            return self.said(0, "the graph fixes no linear capacity")
        presents = {id(present) for _, present, _ in fixed}
        others = [value for value in model.graph.inputs if id(value) not in {id(past) for past, _, _ in fixed}]
        for past, present, capacity in fixed:
            reason = _depends(past, present, capacity, presents) or _elsewhere(others, capacity)
            if reason:
                return self.said(0, reason)
        for past, present, _ in fixed:
            for value in (past, present, *_aliases(past)):
                _make_symbolic(value, axis)
        # Shapes in between were inferred from the number; they are inferred again by whoever needs them.
        _forget_between(fixed)
        return self.said(len(fixed), f"{len(fixed)} cache tensors take any capacity")


def _depends(past: ir.Value, present: ir.Value, capacity: int, presents: set[int]) -> str:
    """Why the number matters to what reads the cache, or nothing."""
    pending = [past, present]
    seen = {id(past), id(present)}
    while pending:
        for node, index in pending.pop().uses():
            if not _is_known_reader(node, index):
                return f"the {describe(node)} reads {past.name!r} in an unknown way"
            reason = _names_capacity(node, capacity)
            if reason:
                return reason
            if is_op(node, *_SAME_VALUES):
                new = [output for output in node.outputs if id(output) not in seen | presents]
                seen |= {id(output) for output in new}
                pending += new
    return ""


def _is_known_reader(node: ir.Node, index: int) -> bool:
    """Whether a node reads a cache at this input as attention, an update, a shape, or passes its values on."""
    operator = OPERATORS.get(op(node))
    if operator is not None:
        return index in (operator.key, operator.value, *operator.past)
    return is_op(node, "Shape", *_SAME_VALUES) or (is_op(node, "TensorScatter") and index == 0)


def _names_capacity(node: ir.Node, capacity: int) -> str:
    """Which constant of a cache's reader is the number, or nothing."""
    operator = OPERATORS.get(op(node))
    if operator is not None:
        masks = [input_at(node, index) for index in operator.masks]
        if any(mask is not None and _mentions(mask, capacity) for mask in masks):
            return f"the mask of the {describe(node)} holds the number {capacity}"
    elif not is_op(node, "TensorScatter") and any(_has_number(value, capacity) for value in node.inputs[1:]):
        return f"the {describe(node)} holds the number {capacity}"
    return ""


def _elsewhere(inputs: list[ir.Value], capacity: int) -> str:
    """Another graph input, a mask say, that is as long as the cache."""
    for value in inputs:
        if any(static_dim(value, axis) == capacity for axis in range(1, rank(value) or 0)):
            return f"the graph input {value.name!r} has {capacity} positions too"
    return ""


def _mentions(mask: ir.Value, capacity: int) -> bool:
    """Whether a constant on the way to a mask is the number, or has that many elements on an axis."""
    pending, seen = [mask], {id(mask)}
    while pending:
        value = pending.pop()
        if len(seen) > _LIMIT or _has_number(value, capacity):
            return True
        producer = value.producer()
        if producer is None:
            continue
        for source in producer.inputs:
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                pending.append(source)
    return False


def _has_number(value: ir.Value | None, capacity: int) -> bool:
    tensor = constant_tensor(value)
    if tensor is None:
        return False
    if capacity in list(tensor.shape):
        return True
    small = tensor.size <= 64 and tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT)
    return small and bool((abs(tensor.numpy().astype(float) - capacity) <= 1).any())


def _aliases(past: ir.Value) -> Iterator[ir.Value]:
    """Outputs of Identity and TensorScatter, which have the cache's own shape."""
    for node, index in past.uses():
        if index == 0 and is_op(node, "Identity", "TensorScatter"):
            yield node.outputs[0]


def _make_symbolic(value: ir.Value, axis: int) -> None:
    if value.shape is not None and len(value.shape) > axis:
        value.shape = ir.Shape([_SYMBOL if index == axis else dim for index, dim in enumerate(value.shape)])


def _forget_between(fixed: list[tuple[ir.Value, ir.Value, int]]) -> None:
    keep = {id(value) for past, present, _ in fixed for value in (past, present)}
    for past, present, _ in fixed:
        for source in (past, present, *_aliases(past)):
            for node, _ in source.uses():
                if is_op(node, *_SAME_VALUES):
                    for output in node.outputs:
                        if id(output) not in keep and not output.is_graph_output():
                            output.shape = None
