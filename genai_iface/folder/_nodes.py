# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One node as parsed: what it calls, the graphs that it holds, and whether it has what its operator asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx.defs
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto

from genai_iface.errors import InvalidInputError

__all__ = ["BROKEN", "FunctionId", "Operators", "function_id", "subgraphs_of"]

BROKEN = "Copy or export the model again; onnx.checker.check_model tells more."
"""The remedy for a graph that is not well formed."""

FunctionId = tuple[str, str, str]
"""Domain, name and overload of a local function."""

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


def subgraphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds: branches, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


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


class Operators:
    """Nodes have the inputs, outputs and attributes that their operators ask for.

    Args:
        imports: The versions of the operators' domains.
        bodies: The local functions of the model.
    """

    def __init__(self, imports: Iterable[OperatorSetIdProto], bodies: Mapping[FunctionId, FunctionProto]) -> None:
        self._versions = _versions(imports)
        self._bodies = bodies

    def check(
        self, node: NodeProto, inputs: Sequence[str], outputs: Sequence[str], attributes: Sequence[AttributeProto]
    ) -> None:
        """One node, its fields beside it: reading a field costs as much as looking at it."""
        function = self._bodies.get(function_id(node)) if self._bodies else None
        if function is not None:
            _check_call(node, function)
            return
        domain = node.domain
        domain = "" if domain == "ai.onnx" else domain
        signature = _signature(node.op_type, self._versions.get(domain, 0), domain)
        if signature is None:
            return
        least, most = signature.inputs
        if not least <= len(inputs) <= most:
            raise _wrong_number(node, len(inputs), "inputs", signature.inputs)
        least, most = signature.outputs
        if not least <= len(outputs) <= most:
            raise _wrong_number(node, len(outputs), "outputs", signature.outputs)
        for index in signature.needed:
            if index < len(inputs) and not inputs[index]:
                raise InvalidInputError(
                    f"{_named(node)} lacks its input {index}, which its operator needs", remedy=BROKEN
                )
        if attributes or signature.required:
            _check_attributes(node, attributes, signature)


def _wrong_number(node: NodeProto, count: int, kind: str, expected: tuple[int, int]) -> InvalidInputError:
    least, most = expected
    return InvalidInputError(f"{_named(node)} has {count} {kind}, its operator takes {least} to {most}", remedy=BROKEN)


def _check_attributes(node: NodeProto, attributes: Iterable[AttributeProto], signature: _Signature) -> None:
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
