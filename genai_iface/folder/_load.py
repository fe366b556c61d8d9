# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads ``model.onnx`` into ONNX IR, and turns whatever is wrong with the file into one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto
from onnx_ir.passes import InvariantError
from onnx_ir.passes.common import InlinePass
from onnx_ir.serde import SerdeError

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder._files import find_inside, read_inside
from genai_iface.folder._tensors import check_tensors

__all__ = ["MODEL_FILE", "read_model"]

MODEL_FILE = "model.onnx"
# Protobuf's own limit for one message.
_MAX_MODEL_BYTES = 2**31 - 1
# Functions that call functions grow exponentially; a real model stays far below this.
_MAX_NODES = 2_000_000
_BROKEN = "Copy or export the model again; onnx.checker.check_model tells more."

T = TypeVar("T")


def read_model(root: Path, *, inline: bool = True) -> tuple[ir.Model, tuple[Path, ...]]:
    """Reads and checks the model of a folder.

    Args:
        root: The folder's real path.
        inline: Replace calls of the model's local functions by their bodies.

    Returns:
        The model, external data still on disk, and the real paths of all its files.

    Raises:
        InvalidInputError: The file is missing or broken, or its external data is.
    """
    content = read_inside(root, MODEL_FILE, limit=_MAX_MODEL_BYTES)
    path = find_inside(root, MODEL_FILE)
    if content is None or path is None:
        raise InvalidInputError(
            f"There is no {MODEL_FILE} in {str(root)!r}",
            remedy=f"Give the folder that holds it, or rename the model's file to {MODEL_FILE}.",
        )
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise InvalidInputError(
            f"{str(path)!r} is not an ONNX model, or not all of it: {error}", remedy="Copy or export the model again."
        ) from error
    if not proto.graph.node:
        raise InvalidInputError(f"{str(path)!r} contains no graph with nodes ({len(content)} bytes)", remedy=_BROKEN)
    files = _guard(path, lambda: _check(proto, root))
    model = _guard(path, lambda: ir.serde.deserialize_model(proto))
    if inline and model.functions:
        _guard(path, lambda: InlinePass()(model))
    ir.external_data.set_base_dir(model.graph, root)
    return model, (path, *files)


def _guard(path: Path, action: Callable[[], T]) -> T:
    """Runs code that meets a broken model; these are what protobuf and onnx-ir raise for one."""
    try:
        return action()
    except InvalidInputError:
        raise
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{str(path)!r} contains a name that is not UTF-8", remedy=_BROKEN) from error
    except (SerdeError, InvariantError, ValueError, TypeError, NotImplementedError, RecursionError) as error:
        # SerdeError's own text holds the whole model; the cause says what is wrong.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InvalidInputError(f"{str(path)!r} holds a broken graph: {str(cause)[:300]}", remedy=_BROKEN) from error


def _check(proto: ModelProto, root: Path) -> tuple[Path, ...]:
    _check_names(proto.graph, frozenset())
    for function in proto.functions:
        _check_function(function)
    _check_growth(proto)
    return check_tensors(proto, root)


def _check_names(graph: GraphProto, outer: frozenset[str]) -> None:
    """Every value is named once and made before it is used, so there is no cycle."""
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    weights += [tensor.values.name for tensor in graph.sparse_initializer]
    for names, what in ((inputs, "input"), (weights, "initializer"), ([v.name for v in graph.output], "output")):
        _check_once(names, what)
    known = _check_nodes(graph.node, outer | set(inputs) | set(weights), {*inputs, *weights})
    for value in graph.output:
        if value.name not in known:
            raise InvalidInputError(f"No node computes the graph output {value.name!r}", remedy=_BROKEN)


def _check_function(function: FunctionProto) -> None:
    _check_once(function.input, f"input of the function {function.name!r}")
    known = _check_nodes(function.node, frozenset(function.input), set(function.input))
    for name in function.output:
        if name not in known:
            raise InvalidInputError(f"No node computes {name!r}, an output of {function.name!r}", remedy=_BROKEN)


def _check_once(names: Iterable[str], what: str) -> None:
    seen = set()
    for name in names:
        if not name or name in seen:
            problem = f"names {name!r} twice" if name else "has no name"
            raise InvalidInputError(f"The graph is broken: an {what} {problem}", remedy=_BROKEN)
        seen.add(name)


def _check_nodes(nodes: Iterable[NodeProto], visible: frozenset[str], own: set[str]) -> frozenset[str]:
    known = set(visible)
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                raise InvalidInputError(
                    f"The {node.op_type} node {node.name!r} uses {name!r}, which nothing before it makes: "
                    "the value is missing, or the graph has a cycle or is not sorted",
                    remedy=_BROKEN,
                )
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_names(graph, frozenset(known))
        for name in node.output:
            if name and name in own:
                raise InvalidInputError(
                    f"The {node.op_type} node {node.name!r} makes {name!r}, which exists already", remedy=_BROKEN
                )
            if name:
                own.add(name)
                known.add(name)
    return frozenset(known)


def _check_growth(proto: ModelProto) -> None:
    """Bounds what inlining gives, without doing it."""
    bodies = {(function.domain, function.name, function.overload): function.node for function in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    open_calls: set[tuple[str, str, str]] = set()

    def size(nodes: Iterable[NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1
            for attribute in node.attribute:
                for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    total += size(graph.node)
            call = (node.domain, node.op_type, node.overload)
            if call in open_calls:
                raise InvalidInputError(f"The local function {node.op_type!r} calls itself", remedy=_BROKEN)
            if call in bodies:
                if call not in sizes:
                    open_calls.add(call)
                    sizes[call] = size(bodies[call])
                    open_calls.remove(call)
                total += sizes[call]
        return total

    nodes = size(proto.graph.node)
    if nodes > _MAX_NODES:
        raise UnsupportedModelError(
            f"The graph has {nodes} nodes once its functions are inlined, at most {_MAX_NODES} are read",
            remedy="Export the model without so many nested functions.",
        )
