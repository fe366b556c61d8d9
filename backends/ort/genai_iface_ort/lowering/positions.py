# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Shows that positions or lengths in a graph are the ones that the interface's step implies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface.graph import GraphSignature, InputRole, is_op

__all__ = ["Cone", "are_positions", "are_valid_lengths", "are_write_indices", "cone_of"]

_Ints: TypeAlias = NDArray[np.int64]

# With these alone, values are piecewise linear in the inputs; probes then tell the wanted function from others.
_ARITHMETIC = (
    *("Identity", "Cast", "Constant", "Shape", "Gather", "Range", "Unsqueeze", "Squeeze", "Reshape", "Flatten"),
    *("Expand", "Concat", "Slice", "Add", "Sub", "Size", "CastLike"),
)
# With these as well, a value changes where a position passes a constant, so probes stand around every constant.
_COMPARISONS = (
    *("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Or", "Xor", "Not", "Where"),
    *("ConstantOfShape", "Mul", "Div", "Mod", "Neg", "Min", "Max", "Abs", "Trilu"),
)
_ROLES: tuple[InputRole, ...] = ("input_ids", "write_indices", "nonpad_kv_seqlen", "position_ids")
_PROBES = (((5, 0), 3), ((2, 11), 1), ((0, 0), 4), ((7,), 2))
_LIMIT = 128


def are_positions(model: ir.Model, signature: GraphSignature, value: ir.Value | None) -> bool:
    """Whether the value is write_indices + 0..S-1 for each row."""
    return _agrees(model, signature, value, lambda starts, width: starts[:, None] + np.arange(width))


def are_valid_lengths(model: ir.Model, signature: GraphSignature, value: ir.Value | None) -> bool:
    """Whether the value is write_indices + S for each row."""
    return _agrees(model, signature, value, lambda starts, width: starts + width)


def are_write_indices(model: ir.Model, signature: GraphSignature, value: ir.Value | None) -> bool:
    """Whether the value is write_indices."""
    return _agrees(model, signature, value, lambda starts, width: starts)


@dataclass(frozen=True, slots=True)
class Cone:
    """Arithmetic on what a step implies, ready to run.

    Attributes:
        values: The value asked for and everything that it follows from.
        run: Takes the rows' lengths before the step, the number of new tokens, and the capacity of the caches.
    """

    values: Sequence[ir.Value]
    run: Callable[[_Ints, int, int], NDArray[Any]]


def cone_of(
    model: ir.Model, signature: GraphSignature, value: ir.Value | None, *, comparisons: bool = False
) -> Cone | None:
    """What leads from the inputs of a step to a value; None if it is more than arithmetic on them.

    Args:
        model: The model.
        signature: Its signature.
        value: The value asked for.
        comparisons: Whether comparisons may be among the arithmetic.
    """
    if value is None:
        return None
    values = _ancestors(value)
    nodes = {producer for current in values if (producer := current.producer()) is not None}
    allowed = (*_ARITHMETIC, *_COMPARISONS) if comparisons else _ARITHMETIC
    if len(nodes) > _LIMIT or not all(is_op(node, *allowed) for node in nodes):
        return None
    sources = [source for source in values if source.is_graph_input() and not source.is_initializer()]
    roles = {str(name): role for role, name in signature.inputs.items() if role in _ROLES}
    caches = [source for source in sources if str(source.name) not in roles]
    # What depends on the tokens themselves cannot be learned from a few steps.
    shapes = [*caches, *(source for source in sources if roles.get(str(source.name)) == "input_ids")]
    pasts = {tensor.past: tensor for tensor in signature.cache_tensors}
    if any(str(source.name) not in pasts for source in caches) or not all(
        _gives_its_shape_only(source, nodes) for source in shapes
    ):
        return None
    evaluate = _runner(model, sources, value)
    axis = 2 if signature.cache.layout == "bnsh" else 1

    def run(starts: _Ints, width: int, capacity: int) -> NDArray[Any]:
        fed = _feeds(starts, width)
        feeds: dict[str, NDArray[Any]] = {}
        for source in sources:
            if source in caches:
                shape = [len(starts), *[1] * axis, 1]
                shape[axis] = signature.cache.layers[pasts[str(source.name)].layer].capacity or capacity
                # Nothing is read but its shape, so it takes no memory.
                feeds[str(source.name)] = np.broadcast_to(np.float32(0), shape)
            else:
                given = source.dtype.numpy() if source.dtype else np.int64
                feeds[str(source.name)] = fed[roles[str(source.name)]].astype(given)
        return evaluate(feeds)

    return Cone(values, run)


def _gives_its_shape_only(source: ir.Value, nodes: set[ir.Node]) -> bool:
    return all(is_op(node, "Shape") for node, _ in source.uses() if node in nodes)


def _agrees(
    model: ir.Model,
    signature: GraphSignature,
    value: ir.Value | None,
    wanted: Callable[[_Ints, int], _Ints],
) -> bool:
    """Runs the arithmetic before the value on a few steps, as a backend would feed them."""
    cone = cone_of(model, signature, value)
    if cone is None:
        return False
    for slack, (starts, width) in enumerate(_PROBES):
        begin = np.array(starts, np.int64)
        got, expected = cone.run(begin, width, int(begin.max()) + width + slack), wanted(begin, width)
        if got.shape != expected.shape or not np.array_equal(got, expected):
            return False
    return True


def _feeds(starts: _Ints, width: int) -> Mapping[InputRole, _Ints]:
    return {
        "input_ids": np.ones((len(starts), width), np.int64),
        "write_indices": starts,
        "nonpad_kv_seqlen": starts + width,
        "position_ids": starts[:, None] + np.arange(width),
    }


def _runner(
    model: ir.Model, sources: list[ir.Value], value: ir.Value
) -> Callable[[dict[str, NDArray[Any]]], NDArray[Any]]:
    if value in sources:
        return lambda feeds: feeds[str(value.name)]
    graph = ir.convenience.extract(model.graph, sources, [value])
    cone = ir.Model(graph, ir_version=model.ir_version)
    graph.opset_imports.update(model.graph.opset_imports)
    evaluator = ReferenceEvaluator(ir.to_proto(cone))

    def run(feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        (result,) = evaluator.run(None, feeds)
        return np.asarray(result)

    return run


def _ancestors(value: ir.Value) -> list[ir.Value]:
    """The value and everything that it follows from."""
    found, seen = [value], {id(value)}
    for current in found:
        producer = current.producer()
        for source in producer.inputs if producer is not None else ():
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                found.append(source)
    return found
