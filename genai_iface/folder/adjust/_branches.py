# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that hold a decoder twice, with and without a cache, and choose by an input."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import replace_value
from genai_iface.graph._walk import input_at, is_op, trace_back

__all__ = ["take_cached_branch"]


def take_cached_branch(model: ir.Model) -> str | None:
    """Puts the branch with a cache in the place of the If that chooses, and drops the input that it asks.

    An empty cache is a cache of length 0: the other branch computes nothing that this one does not. It was often traced
    with one token, so the graph's ``input_ids`` get the width 1, and backends run it token by token.

    Returns:
        What was done, None for nothing.
    """
    graph = model.graph
    for node in graph:
        condition = trace_back(input_at(node, 0)) if is_op(node, "If") else None
        if condition is None or not condition.is_graph_input() or condition.is_initializer():
            continue
        branches = [node.attributes.get(name) for name in ("then_branch", "else_branch")]
        bodies = [branch.value for branch in branches if branch is not None and isinstance(branch.value, ir.Graph)]
        if len(bodies) != len(branches):
            continue
        cached = max(bodies, key=lambda body: _caches_read(body, graph))
        if not _caches_read(cached, graph):
            continue
        _inline(graph, node, cached)
        _drop_unused(graph, condition)
        _one_token_at_a_time(graph)
        return f"branches: the one with a cache is used; the input {condition.name!r} is gone"
    return None


def _caches_read(body: ir.Graph, graph: ir.Graph) -> int:
    """How many inputs of the graph of three or four axes a branch reads."""
    caches = {value for value in graph.inputs if value.shape is not None and len(value.shape) in (3, 4)}
    return len({value for node in body for value in node.inputs if value in caches})


def _inline(graph: ir.Graph, choice: ir.Node, body: ir.Graph) -> None:
    """Moves the nodes of a branch to where the choice stands."""
    for name, value in list(body.initializers.items()):
        # Names within a branch are its own, and need not differ from those outside.
        if name in graph.initializers:
            value.name = f"{name}_of_branch"
        del body.initializers[name]
        graph.register_initializer(value)
    nodes, outputs = list(body), list(body.outputs)
    body.outputs.clear()
    body.remove(nodes)
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken |= {value.name for node in graph for value in node.outputs}
    for node in nodes:
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}_of_branch"
    graph.insert_before(choice, nodes)
    for old, given in zip(choice.outputs, outputs, strict=True):
        new = given
        if given.producer() is None:
            # A branch may hand on a value that is not its own.
            node = ir.node("Identity", [given])
            graph.insert_before(choice, node)
            new = node.outputs[0]
        new.shape, new.type = old.shape, old.type
        replace_value(old, new)
    graph.remove(choice, safe=True)


def _drop_unused(graph: ir.Graph, condition: ir.Value) -> None:
    """Removes what led to the choice."""
    for node in list(condition.consumers()):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    if not condition.uses():
        graph.inputs.remove(condition)


def _one_token_at_a_time(graph: ir.Graph) -> None:
    """Fixes the width of ``input_ids``; its shape does not say it, and finding out would mean to run the graph."""
    for value in graph.inputs:
        if value.name == "input_ids" and value.shape is not None and len(value.shape) == 2:
            value.shape = ir.Shape([value.shape[0], 1])
