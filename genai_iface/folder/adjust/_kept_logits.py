# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that ask how many of the last logits to compute."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from genai_iface.graph._walk import input_at, is_op

__all__ = ["give_all_logits"]

_ON_THE_WAY = frozenset({"Neg", "Mul", "Sub", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Concat", "Where"})
_LIMIT = 64


def give_all_logits(model: ir.Model) -> str | None:
    """Fixes that number to 0, which stands for all of them: ``hidden[:, -0:]``. Backends select columns by themselves.

    The input is an integer without axes, or with one of size 1, that leads to nothing but the start of a Slice.

    Returns:
        What was done, None for nothing.
    """
    graph = model.graph
    for value in list(graph.inputs):
        is_number = value.shape is not None and (len(value.shape) == 0 or list(value.shape) == [1])
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32) or not is_number or not _starts_a_slice(value):
            continue
        zero = np.zeros([1] * len(value.shape or ()), value.dtype.numpy())
        graph.inputs.remove(value)
        value.const_value = ir.tensor(zero, name=value.name)
        graph.register_initializer(value)
        return f"kept-logits: the input {value.name!r} is fixed to 0, all logits"
    return None


def _starts_a_slice(value: ir.Value) -> bool:
    """Whether all that follows from a value are starts of slices of a hidden state, through a negation."""
    pending, found, negated = [(value, False)], 0, True
    for current, is_negative in pending:
        if len(pending) > _LIMIT:
            return False
        for node, index in current.uses():
            if is_op(node, "Slice") and index == 1 and _is_float(input_at(node, 0)):
                found += 1
                negated = negated and is_negative
            elif is_op(node, *_ON_THE_WAY):
                flips = is_negative or is_op(node, "Neg", "Mul", "Sub")
                pending.extend((output, flips) for output in node.outputs)
            else:
                return False
    return found > 0 and negated


def _is_float(value: ir.Value | None) -> bool:
    """Unknown types count: exporters leave out those of values within the graph."""
    return value is not None and (value.dtype is None or "FLOAT" in value.dtype.name)
