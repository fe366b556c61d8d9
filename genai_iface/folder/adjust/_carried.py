# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Values that a graph takes and gives back as they are: tracers keep whatever a cache object holds."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._walk import is_op

__all__ = ["drop_carried"]

_SHOWN = 3


def drop_carried(model: ir.Model) -> str | None:
    """Removes inputs that lead to nothing but outputs, unchanged: the window that a layer's cache carries, for example.

    Returns:
        What was done, None for nothing.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    carried = [value for value in inputs if _is_carried(value)]
    if len(carried) == len(inputs):
        # A graph that computes nothing is refused later, with its inputs named.
        return None
    names = []
    for value in carried:
        copies = [node for node, _ in value.uses()]
        for node in copies:
            graph.outputs.remove(node.outputs[0])
            graph.remove(node, safe=True)
        while value.is_graph_output():
            graph.outputs.remove(value)
        graph.inputs.remove(value)
        names.append(repr(value.name))
    if not names:
        return None
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"carried: what only passes through is gone: {', '.join(names[:_SHOWN])}{more}"


def _is_carried(value: ir.Value) -> bool:
    """Whether it goes to outputs through Identity, at least to one, and nowhere else."""
    copies = [node for node, _ in value.uses()]
    return (value.is_graph_output() or bool(copies)) and all(_gives_it_back(node) for node in copies)


def _gives_it_back(node: ir.Node) -> bool:
    return is_op(node, "Identity") and node.outputs[0].is_graph_output() and not node.outputs[0].uses()
