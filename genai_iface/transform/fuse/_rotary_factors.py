# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The cos and sin that a written-out rotation multiplies with, brought to the half size that RotaryEmbedding takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from genai_iface.graph._edit import Editor, constant_tensor, copy_type
from genai_iface.graph._walk import is_op, rank, static_dim
from genai_iface.transform.fuse._last_axis import joined, pairs_repeated, unsqueezed

__all__ = ["Factor", "factor_of", "for_every_row", "half_size", "same_rows"]

# Elementwise, with the other inputs constant: what commutes with repeating the last axis.
_STEPS = ("Cast", "Cos", "Sin", "Neg", "Mul", "Div")


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of a rotation.

    Attributes:
        source: What is repeated along the last axis, (..., R / 2).
        steps: The elementwise nodes between the repetition and the factor, innermost first, each with the index
            of the input that is not constant.
        heads_axis: Where the factor has its axis of size 1 for the heads: 1 or 2.
        repeat: "halves" (c0 c1 c0 c1), "pairs" (c0 c0 c1 c1) or "none" (c0 c1).
    """

    source: ir.Value
    steps: tuple[tuple[ir.Node, int], ...]
    heads_axis: int
    repeat: str


def factor_of(value: ir.Value | None, repeat: str) -> Factor | None:
    """Reads a factor (B or 1, 1, S, R) or (B or 1, S, 1, R), or one of half that size.

    Args:
        value: What a rotation multiplies with.
        repeat: How it should be repeated.

    Returns:
        None if it isn't of that form, or is not known to be.
    """
    if value is None or rank(value) != 4:
        return None
    axes = [axis for axis in (1, 2) if static_dim(value, axis) == 1]
    heads_axis = axes[0] if len(axes) == 1 else None
    steps: list[tuple[ir.Node, int]] = []
    while value is not None:
        found = unsqueezed(value)
        if rank(value) == 4 and found is not None and found[1] in (1, 2):
            heads_axis = found[1]
        source = value if repeat == "none" else _repeated(value, repeat)
        if source is not None:
            return None if heads_axis is None else Factor(source, tuple(reversed(steps)), heads_axis, repeat)
        if found is not None and rank(value) == 4 and found[1] in (1, 2):
            value = found[0]
            continue
        step = _step(value)
        if step is None:
            return None
        steps.append(step)
        value = step[0].inputs[step[1]]
    return None


def _repeated(value: ir.Value, repeat: str) -> ir.Value | None:
    if repeat == "pairs":
        return pairs_repeated(value)
    parts = joined(value)
    return parts[0] if parts is not None and parts[0] is parts[1] else None


def _step(value: ir.Value) -> tuple[ir.Node, int] | None:
    node = value.producer()
    if node is None or not is_op(node, *_STEPS):
        return None
    if len(node.inputs) == 1:
        return node, 0
    for index in (0, 1) if is_op(node, "Mul") else (0,):
        constant = constant_tensor(node.inputs[1 - index])
        if constant is not None and constant.size == 1:
            return node, index
    return None


def half_size(edit: Editor, place: ir.Node, factor: Factor) -> ir.Value:
    """The factor as RotaryEmbedding takes it: (B or 1, S, R / 2), without repetition and without an axis for heads.

    Args:
        edit: The graph's editor.
        place: Nodes are inserted before this one.
        factor: The cosines or sines as the graph multiplies them.
    """
    value = factor.source
    if rank(value) == 4:
        inner = unsqueezed(value)
        if inner is not None and inner[1] == factor.heads_axis:
            value = inner[0]
        else:
            (value,) = _described(edit, place, "Squeeze", [value, edit.ints(factor.heads_axis)], {}, value)
            dims = list(factor.source.shape or ())
            value.shape = ir.Shape([size for axis, size in enumerate(dims) if axis != factor.heads_axis])
    for node, index in factor.steps:
        inputs = [value if at == index else each for at, each in enumerate(node.inputs)]
        shape = value.shape
        (value,) = _described(edit, place, node.op_type, inputs, node.attributes, node.outputs[0])
        value.shape = shape
    return value


def for_every_row(edit: Editor, place: ir.Node, factor: ir.Value, x: ir.Value) -> ir.Value:
    """Repeats cos or sin (1 or B, S, R / 2) for the B rows of x, unless it is known to have as many.

    RotaryEmbedding takes caches of rank 3 with the batch size of its input only; it does not broadcast them.
    """
    if same_rows(factor, x):
        return factor
    (rows,) = edit.before(place, "Shape", [x], {"start": 0, "end": 1})
    (shape,) = edit.before(place, "Concat", [rows, edit.ints(1, 1)], {"axis": 0})
    (result,) = _described(edit, place, "Expand", [factor, shape], {}, factor)
    if x.shape is not None and factor.shape is not None:
        result.shape = ir.Shape([x.shape[0], *list(factor.shape)[1:]])
    return result


def same_rows(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values, of any rank, are known to have equal batch sizes."""
    if not one.shape or not other.shape:
        return False
    mine, its = one.shape[0], other.shape[0]
    if isinstance(mine, int) or isinstance(its, int):
        return mine == its
    return mine.value is not None and mine.value == its.value


def _described(
    edit: Editor,
    place: ir.Node,
    kind: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any],
    like: ir.Value,
) -> list[ir.Value]:
    made = edit.before(place, kind, inputs, attributes)
    copy_type(like, made[0])
    return made
