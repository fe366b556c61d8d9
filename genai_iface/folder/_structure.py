# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the structure of a model as parsed: names, order, operators' inputs, size once functions are inlined.

Everything here is linear in the nodes of the file and runs before any other library sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder._nodes import BROKEN, FunctionId, Operators, function_id, subgraphs_of

__all__ = ["check_structure"]

# Functions that call functions grow exponentially; a real model stays far below these.
_MAX_NODES = 250_000
# Each costs as much to read as several nodes.
_MAX_SUBGRAPHS = 50_000
# ONNX's inliner takes no more.
_MAX_FUNCTIONS = 10_000
_MAX_COPIED_BYTES = 256 * 2**20
_MAX_CALL_DEPTH = 64
_SIMPLER = "Export the model without so many nested functions."


def check_structure(proto: ModelProto) -> None:
    """Checks everything about a model but its tensors.

    Raises:
        InvalidInputError: The graph is not well formed.
        UnsupportedModelError: It is, and becomes too large once its functions are inlined.
    """
    if len(proto.functions) > _MAX_FUNCTIONS:
        raise UnsupportedModelError(
            f"The model has {len(proto.functions)} local functions, at most {_MAX_FUNCTIONS} are read", remedy=_SIMPLER
        )
    nodes, subgraphs = _count(proto)
    if subgraphs > _MAX_SUBGRAPHS:
        raise UnsupportedModelError(
            f"The graph has {subgraphs} subgraphs (branches of If, bodies of Loop), at most {_MAX_SUBGRAPHS} are read",
            remedy="Export the model without control flow.",
        )
    bodies: dict[FunctionId, FunctionProto] = {}
    for function in proto.functions:
        if function_id(function) in bodies:
            raise InvalidInputError(f"There are two local functions {function.name!r}", remedy=BROKEN)
        bodies[function_id(function)] = function
    _Scope(Operators(proto.opset_import, bodies)).check_graph(proto.graph)
    for function in bodies.values():
        _Scope(Operators(function.opset_import, bodies)).check_function(function)
    _check_growth(proto, bodies, nodes)


def _count(proto: ModelProto) -> tuple[int, int]:
    """The nodes of the main graph, those in its subgraphs included, and the subgraphs of the whole file."""
    nodes, subgraphs = _count_below(proto.graph.node)
    return nodes, subgraphs + sum(_count_below(function.node)[1] for function in proto.functions)


def _count_below(outermost: Sequence[NodeProto]) -> tuple[int, int]:
    pending = [outermost]
    count = subgraphs = 0
    while pending:
        nodes = pending.pop()
        count += len(nodes)
        for node in nodes:
            if node.attribute:
                inner = [graph.node for graph in subgraphs_of(node)]
                subgraphs += len(inner)
                pending.extend(inner)
    return count, subgraphs


# Names and order.


class _Scope:
    """Goes over the nodes of a graph or function, and those of the graphs within, once.

    Every value is named once and made before it is used, so there is no cycle; nodes have what operators ask for.

    Args:
        operators: What the operators of this file, or of this function, ask for.
    """

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        # One set for all scopes: a copy of it for each subgraph would cost by the square of the graph.
        # The empty name stands for an input that is absent.
        self._known = {""}

    def check_graph(self, graph: GraphProto) -> None:
        """A graph; afterwards the names that are known are those from before."""
        known = self._known
        inputs = [value.name for value in graph.input]
        weights = [tensor.name for tensor in graph.initializer]
        weights += [tensor.values.name for tensor in graph.sparse_initializer]
        for names, what in ((inputs, "input"), (weights, "initializer"), ([v.name for v in graph.output], "output")):
            _check_once(names, what)
        own = {*inputs, *weights}
        added = own - known
        known |= added
        self._check_nodes(graph.node, own, added)
        for value in graph.output:
            if value.name not in known:
                raise InvalidInputError(f"No node computes the graph output {value.name!r}", remedy=BROKEN)
        known -= added

    def check_function(self, function: FunctionProto) -> None:
        """The body of a local function."""
        _check_once(function.input, f"input of the function {function.name!r}")
        self._known.update(function.input)
        self._check_nodes(function.node, set(function.input), set())
        for name in function.output:
            if not name or name not in self._known:
                raise InvalidInputError(f"No node computes {name!r}, an output of {function.name!r}", remedy=BROKEN)

    def _check_nodes(self, nodes: Iterable[NodeProto], own: set[str], added: set[str]) -> None:
        """Nodes in order; what they make is put into ``own`` and, if it is new outside too, into ``added``."""
        known = self._known
        for node in nodes:
            inputs, outputs, attributes = node.input, node.output, node.attribute
            if not known.issuperset(inputs):
                name = next(name for name in inputs if name not in known)
                raise InvalidInputError(
                    f"The {node.op_type} node {node.name!r} uses {name!r}, which nothing before it makes: "
                    "the value is missing, or the graph has a cycle or is not sorted",
                    remedy=BROKEN,
                )
            self._operators.check(node, inputs, outputs, attributes)
            for graph in subgraphs_of(node) if attributes else ():
                self.check_graph(graph)
            for name in outputs:
                if name and name in own:
                    raise InvalidInputError(
                        f"The {node.op_type} node {node.name!r} makes {name!r}, which exists already", remedy=BROKEN
                    )
                if name:
                    own.add(name)
                    if name not in known:
                        known.add(name)
                        added.add(name)


def _check_once(names: Iterable[str], what: str) -> None:
    seen = set()
    for name in names:
        if not name or name in seen:
            problem = f"names {name!r} twice" if name else "has no name"
            raise InvalidInputError(f"The graph is broken: an {what} {problem}", remedy=BROKEN)
        seen.add(name)


# Growth.


def _check_growth(proto: ModelProto, bodies: Mapping[FunctionId, FunctionProto], nodes: int) -> None:
    """Bounds what inlining gives, without doing it."""
    count, copied = nodes, 0
    if bodies:
        growth = _Growth(bodies)
        for call in bodies:
            growth.of_function(call)
        count, copied = growth.of_nodes(proto.graph.node)
    if count > _MAX_NODES:
        raise UnsupportedModelError(
            f"The graph has {count} nodes once its functions are inlined, at most {_MAX_NODES} are read",
            remedy=_SIMPLER,
        )
    if copied > _MAX_COPIED_BYTES:
        raise UnsupportedModelError(
            f"The graph grows by {copied} bytes when its functions are inlined, at most {_MAX_COPIED_BYTES} are read",
            remedy=_SIMPLER,
        )


class _Growth:
    """Counts nodes once they are inlined, and the bytes that inlining copies.

    Args:
        bodies: The local functions of the model.
    """

    def __init__(self, bodies: Mapping[FunctionId, FunctionProto]) -> None:
        self._bodies = bodies
        self._known: dict[FunctionId, tuple[int, int]] = {}
        self._open_calls: list[FunctionId] = []

    def of_nodes(self, nodes: Iterable[NodeProto]) -> tuple[int, int]:
        """Of nodes, those in their subgraphs included."""
        count, copied = 0, 0
        for node in nodes:
            count += 1
            for graph in subgraphs_of(node) if node.attribute else ():
                inner = self.of_nodes(graph.node)
                count, copied = count + inner[0], copied + inner[1]
            if (call := function_id(node)) in self._bodies:
                inner = self.of_function(call)
                count, copied = count + inner[0], copied + inner[1]
        return count, copied

    def of_function(self, call: FunctionId) -> tuple[int, int]:
        """Of one call; each function is looked at once."""
        if call not in self._known:
            if call in self._open_calls:
                raise InvalidInputError(f"The local function {call[1]!r} calls itself", remedy=BROKEN)
            if len(self._open_calls) == _MAX_CALL_DEPTH:
                raise UnsupportedModelError(f"Functions call functions over {_MAX_CALL_DEPTH} levels", remedy=_SIMPLER)
            self._open_calls.append(call)
            count, copied = self.of_nodes(self._bodies[call].node)
            self._open_calls.pop()
            self._known[call] = count, copied + self._bodies[call].ByteSize()
        return self._known[call]
