# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the structure of a model as parsed: names, order, operators' inputs, size once functions are inlined.

Everything here is linear in the nodes of the file and runs before any other library sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import onnx.defs
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto

from genai_iface.errors import InvalidInputError, UnsupportedModelError

__all__ = ["BROKEN", "FunctionId", "check_structure", "function_id", "subgraphs_of"]

BROKEN = "Copy or export the model again; onnx.checker.check_model tells more."
"""The remedy for a graph that is not well formed."""

FunctionId = tuple[str, str, str]
"""Domain, name and overload of a local function."""

# Functions that call functions grow exponentially; a real model stays far below these.
_MAX_NODES = 250_000
# Each costs as much to read as several nodes.
_MAX_SUBGRAPHS = 50_000
# ONNX's inliner takes no more.
_MAX_FUNCTIONS = 10_000
_MAX_COPIED_BYTES = 256 * 2**20
_MAX_CALL_DEPTH = 64
_SIMPLER = "Export the model without so many nested functions."

# Contrib operators that rewrites look into have no schema in ONNX: the least inputs and outputs of each.
_CONTRIB_ARITY: Mapping[tuple[str, str], tuple[int, int]] = {
    ("", "SimplifiedLayerNormalization"): (2, 1),
    ("com.microsoft", "GatherBlockQuantized"): (3, 1),
    ("com.microsoft", "GroupQueryAttention"): (7, 1),
    ("com.microsoft", "MatMulNBits"): (3, 1),
    ("com.microsoft", "MultiHeadAttention"): (1, 1),
    ("com.microsoft", "RotaryEmbedding"): (4, 1),
    ("com.microsoft", "SimplifiedLayerNormalization"): (2, 1),
    ("com.microsoft", "SkipLayerNormalization"): (3, 1),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (3, 1),
}


@dataclass(frozen=True, slots=True)
class _Signature:
    """What an operator's schema asks of a node.

    Attributes:
        inputs: Fewest and most inputs.
        outputs: Fewest and most outputs.
        needed: Inputs that may not be absent.
        attributes: Types by name.
        required: Attributes that must be there.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed: tuple[int, ...] = ()
    attributes: Mapping[str, int] | None = None
    required: tuple[str, ...] = ()


def function_id(node: NodeProto | FunctionProto) -> FunctionId:
    """What a node calls, or what a function is called by."""
    name = node.name if isinstance(node, FunctionProto) else node.op_type
    return node.domain, name, node.overload


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
    subgraphs = _count_subgraphs(proto)
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
    _check_graph(proto.graph, set())
    for function in bodies.values():
        _check_function(function)
    _check_operators(proto.graph.node, _versions(proto.opset_import), bodies)
    for function in bodies.values():
        _check_operators(function.node, _versions(function.opset_import), bodies)
    _check_growth(proto, bodies)


def subgraphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds: branches, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _count_subgraphs(proto: ModelProto) -> int:
    """All of the file, those in subgraphs and functions included."""
    pending = [proto.graph.node, *(function.node for function in proto.functions)]
    count = 0
    while pending:
        for node in pending.pop():
            if node.attribute:
                inner = [graph.node for graph in subgraphs_of(node)]
                count += len(inner)
                pending.extend(inner)
    return count


# Names and order.


def _check_graph(graph: GraphProto, known: set[str]) -> None:
    """Every value is named once and made before it is used, so there is no cycle.

    Args:
        graph: The graph.
        known: The names that it sees from outside. As long as it was, afterwards.
    """
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    weights += [tensor.values.name for tensor in graph.sparse_initializer]
    for names, what in ((inputs, "input"), (weights, "initializer"), ([v.name for v in graph.output], "output")):
        _check_once(names, what)
    own = {*inputs, *weights}
    # One set for all scopes: a copy of it for each subgraph would cost by the square of the graph.
    added = own - known
    known |= added
    _check_nodes(graph.node, known, own, added)
    for value in graph.output:
        if value.name not in known:
            raise InvalidInputError(f"No node computes the graph output {value.name!r}", remedy=BROKEN)
    known -= added


def _check_function(function: FunctionProto) -> None:
    _check_once(function.input, f"input of the function {function.name!r}")
    known = set(function.input)
    _check_nodes(function.node, known, set(known), set())
    for name in function.output:
        if name not in known:
            raise InvalidInputError(f"No node computes {name!r}, an output of {function.name!r}", remedy=BROKEN)


def _check_once(names: Iterable[str], what: str) -> None:
    seen = set()
    for name in names:
        if not name or name in seen:
            problem = f"names {name!r} twice" if name else "has no name"
            raise InvalidInputError(f"The graph is broken: an {what} {problem}", remedy=BROKEN)
        seen.add(name)


def _check_nodes(nodes: Iterable[NodeProto], known: set[str], own: set[str], added: set[str]) -> None:
    """Checks nodes in order; what they make is put into ``known``, ``own`` and, if it is new there, ``added``."""
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                raise InvalidInputError(
                    f"The {node.op_type} node {node.name!r} uses {name!r}, which nothing before it makes: "
                    "the value is missing, or the graph has a cycle or is not sorted",
                    remedy=BROKEN,
                )
        for graph in subgraphs_of(node) if node.attribute else ():
            _check_graph(graph, known)
        for name in node.output:
            if name and name in own:
                raise InvalidInputError(
                    f"The {node.op_type} node {node.name!r} makes {name!r}, which exists already", remedy=BROKEN
                )
            if name:
                own.add(name)
                if name not in known:
                    known.add(name)
                    added.add(name)


# Operators.


def _versions(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    versions = {entry.domain: entry.version for entry in imports}
    if "ai.onnx" in versions:
        versions.setdefault("", versions["ai.onnx"])
    return versions


@lru_cache(maxsize=4096)
def _signature(operator: str, version: int, domain: str) -> _Signature | None:
    """What ONNX says of an operator, None for one that it does not know."""
    contrib = _CONTRIB_ARITY.get((domain, operator))
    if contrib is not None:
        least_inputs, least_outputs = contrib
        return _Signature((least_inputs, 2**31), (least_outputs, 2**31))
    # Versions are numbers of a file; ONNX takes them as C integers.
    if not onnx.defs.has(operator, domain) or not 0 < version < 2**31:
        return None
    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(index for index, given in enumerate(schema.inputs) if given.option == single),
        {name: _type_number(given.type) for name, given in schema.attributes.items()},
        tuple(name for name, given in schema.attributes.items() if given.required),
    )


def _type_number(kind: object) -> int:
    """The protobuf number of a schema's attribute type, whose text ends in the same name."""
    number: int = AttributeProto.AttributeType.Value(str(kind).rpartition(".")[2])
    return number


def _check_operators(
    nodes: Iterable[NodeProto], versions: Mapping[str, int], bodies: Mapping[FunctionId, FunctionProto]
) -> None:
    """Nodes have the inputs, outputs and attributes that their operators ask for."""
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        function = bodies.get(function_id(node)) if bodies else None
        if function is not None:
            _check_call(node, function)
        elif (signature := _signature(node.op_type, versions.get(domain, 0), domain)) is not None:
            _check_node(node, signature)
        for graph in subgraphs_of(node) if node.attribute else ():
            _check_operators(graph.node, versions, bodies)


def _check_node(node: NodeProto, signature: _Signature) -> None:
    inputs, outputs, attributes = node.input, node.output, node.attribute
    for names, (least, most), kind in ((inputs, signature.inputs, "inputs"), (outputs, signature.outputs, "outputs")):
        if not least <= len(names) <= most:
            raise InvalidInputError(
                f"{_named(node)} has {len(names)} {kind}, its operator takes {least} to {most}", remedy=BROKEN
            )
    for index in signature.needed:
        if index < len(inputs) and not inputs[index]:
            raise InvalidInputError(f"{_named(node)} lacks its input {index}, which its operator needs", remedy=BROKEN)
    if not attributes and not signature.required:
        return
    types = {attribute.name: attribute.type for attribute in attributes}
    for name in signature.required:
        if name not in types:
            raise InvalidInputError(
                f"{_named(node)} lacks the attribute {name!r}, which its operator needs", remedy=BROKEN
            )
    for name, given in types.items():
        expected = given if signature.attributes is None else signature.attributes.get(name, given)
        if given != expected:
            kinds = AttributeProto.AttributeType
            raise InvalidInputError(
                f"The attribute {name!r} of the {node.op_type} node {node.name!r} is of type "
                f"{kinds.Name(given) if given in kinds.values() else given}, expected {kinds.Name(expected)}",
                remedy=BROKEN,
            )


def _named(node: NodeProto) -> str:
    return f"The {node.op_type} node {node.name!r}"


def _check_call(node: NodeProto, function: FunctionProto) -> None:
    for given, expected, kind in (
        (node.input, function.input, "inputs"),
        (node.output, function.output, "outputs"),
    ):
        if len(given) > len(expected):
            raise InvalidInputError(
                f"The node {node.name!r} calls the function {function.name!r} with {len(given)} {kind}, "
                f"it has {len(expected)}",
                remedy=BROKEN,
            )
    graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    if any(True for _ in subgraphs_of(node)) or any(given.type in graphs for given in function.attribute_proto):
        raise InvalidInputError(
            f"The node {node.name!r} gives a graph to the function {function.name!r}, which is not supported",
            remedy="Export the model without functions that take graphs.",
        )


# Growth.


def _check_growth(proto: ModelProto, bodies: Mapping[FunctionId, FunctionProto]) -> None:
    """Bounds what inlining gives, without doing it."""
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
            if self._bodies and (call := function_id(node)) in self._bodies:
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
