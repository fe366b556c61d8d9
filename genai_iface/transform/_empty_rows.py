# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Removes what exporters write against rows of attention that see no key: zeros instead of what the softmax gives.

Transformers' exporter counts for each query the keys that its mask leaves, and puts zeros where there are none. That
happens in padded columns only, and a cache with a length for each row has none of them: a token sees itself.
"""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import constant_array, replace_value
from genai_iface.graph._walk import input_at, is_op
from genai_iface.transform._graph_probe import GraphProbe

__all__ = ["drop_empty_rows"]

_STEPS = ((0, 1), (0, 5), (4, 1), (4, 3), (37, 2))
_COMPARISONS = ("Less", "LessOrEqual", "Equal", "Not")
_COUNTS = ("ReduceSum", "ReduceMax")


def drop_empty_rows(model: ir.Model, probe: GraphProbe) -> int:
    """Replaces each Where(no key is seen, 0, attention) by the attention.

    Args:
        model: The model; it is changed in place.
        probe: Runs parts of it with a mask of ones.

    Returns:
        How many were replaced.
    """
    known = set(probe.index_values)
    found = [
        node
        for node in model.graph
        if is_op(node, "Where")
        and node.inputs[0] in known
        and _is_zero(node.inputs[1])
        and _counts_keys(node.inputs[0])
    ]
    conditions = list(dict.fromkeys(node.inputs[0] for node in found))
    never = {
        condition
        for condition in conditions
        if condition is not None and not any(probe.run([condition], past, new)[0].any() for past, new in _STEPS)
    }
    done = 0
    for node in found:
        guarded = node.inputs[2]
        if node.inputs[0] in never and guarded is not None:
            replace_value(node.outputs[0], guarded)
            model.graph.remove(node, safe=True)
            done += 1
    return done


def _is_zero(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is not None and not array.any()


def _counts_keys(condition: ir.Value | None) -> bool:
    """Whether it compares a sum or maximum over the keys with a number."""
    comparison = condition.producer() if condition is not None else None
    if comparison is None or not is_op(comparison, *_COMPARISONS):
        return False
    counted = input_at(comparison, 0)
    counter = counted.producer() if counted is not None else None
    return counter is not None and is_op(counter, *_COUNTS)
