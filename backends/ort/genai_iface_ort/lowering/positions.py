# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Shows that positions or lengths in a graph are the ones that the interface's step implies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface.graph import GraphSignature, InputRole, is_op

__all__ = ["are_positions", "are_valid_lengths", "are_write_indices"]

_Ints: TypeAlias = NDArray[np.int64]

# With these alone, values are piecewise linear in the inputs; probes then tell the wanted function from others.
_ARITHMETIC = (
    *("Identity", "Cast", "Constant", "Shape", "Gather", "Range", "Unsqueeze", "Squeeze", "Reshape", "Flatten"),
    *("Expand", "Concat", "Slice", "Add", "Sub", "Size", "CastLike"),
)
_ROLES: tuple[InputRole, ...] = ("input_ids", "write_indices", "nonpad_kv_seqlen", "position_ids")
_PROBES = (((5, 0), 3), ((2, 11), 1), ((0, 0), 4), ((7,), 2))
_LIMIT = 64


def are_positions(model: ir.Model, signature: GraphSignature, value: ir.Value | None) -> bool:
    """Whether the value is write_indices + 0..S-1 for each row."""
    return _agrees(model, signature, value, lambda starts, width: starts[:, None] + np.arange(width))


def are_valid_lengths(model: ir.Model, signature: GraphSignature, value: ir.Value | None) -> bool:
    """Whether the value is write_indices + S for each row."""
    return _agrees(model, signature, value, lambda starts, width: starts + width)


def are_write_indices(model: ir.Model, signature: GraphSignature, value: ir.Value | None) -> bool:
    """Whether the value is write_indices."""
    return _agrees(model, signature, value, lambda starts, width: starts)


def _agrees(
    model: ir.Model,
    signature: GraphSignature,
    value: ir.Value | None,
    wanted: Callable[[_Ints, int], _Ints],
) -> bool:
    """Runs the arithmetic before the value on a few steps, as a backend would feed them."""
    if value is None or not _is_arithmetic(value):
        return False
    roles = {str(name): role for role, name in signature.inputs.items() if role in _ROLES}
    sources = _sources(value)
    if any(str(source.name) not in roles for source in sources):
        return False
    run = _runner(model, sources, value)
    for starts, width in _PROBES:
        begin = np.array(starts, np.int64)
        fed = _feeds(begin, width)
        feeds = {
            str(source.name): fed[roles[str(source.name)]].astype(source.dtype.numpy() if source.dtype else np.int64)
            for source in sources
        }
        got, expected = run(feeds), wanted(begin, width)
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


def _cone(value: ir.Value) -> list[ir.Value]:
    """The value and everything that it follows from."""
    found, seen = [value], {id(value)}
    for current in found:
        producer = current.producer()
        for source in producer.inputs if producer is not None else ():
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                found.append(source)
    return found


def _is_arithmetic(value: ir.Value) -> bool:
    cone = _cone(value)
    nodes = [producer for current in cone if (producer := current.producer()) is not None]
    return len(nodes) <= _LIMIT and all(is_op(node, *_ARITHMETIC) for node in nodes)


def _sources(value: ir.Value) -> list[ir.Value]:
    return [source for source in _cone(value) if source.is_graph_input() and not source.is_initializer()]
