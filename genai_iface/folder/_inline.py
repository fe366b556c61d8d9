# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Replaces calls of a model's local functions by their bodies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx.inliner
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from genai_iface.errors import InvalidInputError
from genai_iface.folder._nodes import FunctionId, function_id, subgraphs_of

__all__ = ["inline_functions"]


def inline_functions(proto: ModelProto) -> None:
    """Inlines every local function, in place. The structure must have been checked.

    Raises:
        InvalidInputError: A function was written for another version of a domain than the graph.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    for function in proto.functions:
        for entry in function.opset_import:
            if versions.setdefault(entry.domain, entry.version) != entry.version:
                raise InvalidInputError(
                    f"The local function {function.name!r} is written for version {entry.version} of the operator "
                    f"domain {entry.domain!r}, the graph for {versions[entry.domain]}",
                    remedy="Export the model with one version of each domain.",
                )
    for domain in versions.keys() - {entry.domain for entry in proto.opset_import}:
        proto.opset_import.add(domain=domain, version=versions[domain])
    light = _without_weights(proto)
    functions = {function_id(function): function for function in light.functions}
    for nodes in (light.graph.node, *(function.node for function in light.functions)):
        _give_defaults(nodes, functions)
    inlined = onnx.inliner.inline_local_functions(light)
    left = _first_call(inlined.graph.node, {function_id(function) for function in proto.functions})
    if left is not None:
        raise InvalidInputError(
            f"The local function {left.op_type!r} cannot be inlined", remedy="Export the model without functions."
        )
    del proto.functions[:], proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(inlined.graph.node)
    proto.graph.value_info.extend(inlined.graph.value_info)


def _without_weights(proto: ModelProto) -> ModelProto:
    """The model with its weights by name only: they need not be copied to rewrite nodes."""
    graph = proto.graph
    names = [tensor.name for tensor in graph.initializer] + [tensor.values.name for tensor in graph.sparse_initializer]
    light = GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output)
    light.value_info.extend(graph.value_info)
    light.initializer.extend(TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[0]) for name in names)
    return ModelProto(
        ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions, graph=light
    )


def _give_defaults(nodes: Iterable[NodeProto], functions: Mapping[FunctionId, FunctionProto]) -> None:
    """Writes the defaults of a function's attributes into its calls: the inliner does not know them."""
    for node in nodes:
        function = functions.get(function_id(node))
        if function is not None and function.attribute_proto:
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(default for default in function.attribute_proto if default.name not in given)
        for graph in subgraphs_of(node) if node.attribute else ():
            _give_defaults(graph.node, functions)


def _first_call(nodes: Iterable[NodeProto], functions: set[FunctionId]) -> NodeProto | None:
    """A node that still calls a function, if there is one."""
    for node in nodes:
        if function_id(node) in functions:
            return node
        for graph in subgraphs_of(node) if node.attribute else ():
            found = _first_call(graph.node, functions)
            if found is not None:
                return found
    return None
