# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What lies between a projection and attention: rotations, heads on an axis of their own, parts of one tensor.

``axes`` is the rank of the attention's inputs: 3 for (B, S, heads * D), 4 for (B, heads, S, D).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from genai_iface.graph import (
    Editor,
    attribute,
    constant_array,
    copy_type,
    is_op,
    is_transpose,
    rank,
    static_dim,
)

__all__ = ["flat_heads", "follows_rotation", "packed_source", "rotation_of", "width_before_heads"]

_FEW_STEPS = 6


def rotation_of(value: ir.Value, axes: int) -> tuple[ir.Node | None, ir.Value]:
    """The rotation that gives queries or keys, and what it rotates; a change of layout may follow it."""
    node = value.producer()
    if not is_op(node, "RotaryEmbedding"):
        rows = _rows_behind(value) if axes == 4 else None
        node = None if rows is None else rows.producer()
    if node is None or not is_op(node, "RotaryEmbedding") or node.inputs[0] is None:
        return None, value
    return node, node.inputs[0]


def follows_rotation(value: ir.Value) -> bool:
    """Whether a rotation is a few steps before a value."""
    for _ in range(_FEW_STEPS):
        node = value.producer()
        source = None if node is None or not node.inputs else node.inputs[0]
        if source is None or is_op(node, "RotaryEmbedding"):
            return is_op(node, "RotaryEmbedding")
        value = source
    return False


def _rows_behind(value: ir.Value) -> ir.Value | None:
    """The (B, S, heads * D) that a Reshape and a Transpose make (B, heads, S, D) of; None if they do not."""
    node = value.producer()
    split = node.inputs[0].producer() if is_transpose(node, (0, 2, 1, 3)) and node and node.inputs[0] else None
    if split is None or not is_op(split, "Reshape"):
        return None
    return split.inputs[0] if split.inputs[0] is not None and rank(split.inputs[0]) == 3 else None


def width_before_heads(value: ir.Value) -> int | None:
    """The width of the (B, S, heads * D) that became (B, heads, S, D), through what changes no size."""
    for _ in range(_FEW_STEPS):
        node = value.producer()
        source = None if node is None or not node.inputs else node.inputs[0]
        if node is None or source is None:
            return None
        if is_op(node, "Reshape") and rank(source) == 3:
            return static_dim(source, 2)
        if not is_op(node, "RotaryEmbedding", "Transpose", "RMSNormalization", "Cast", "Identity", "Mul"):
            return None
        value = source
    return None


def flat_heads(edit: Editor, place: ir.Node, value: ir.Value, axes: int, width: int) -> ir.Value:
    """(B, heads, S, D) or (B, S, heads * D) as (B, S, heads * D); what was only a change of layout is undone."""
    if axes == 3 or rank(value) == 3:
        return value
    behind = _rows_behind(value)
    if behind is not None and static_dim(behind, 2) == width:
        return behind
    node = value.producer()
    if is_transpose(node, (0, 2, 1, 3)) and node is not None and node.inputs[0] is not None:
        rows = node.inputs[0]
    else:
        (rows,) = edit.before(place, "Transpose", [value], {"perm": [0, 2, 1, 3]})
        copy_type(value, rows)
    (flat,) = edit.before(place, "Reshape", [rows, edit.ints(0, 0, -1)])
    copy_type(value, flat)
    return flat


def packed_source(projections: Sequence[ir.Value], axes: int) -> ir.Value | None:
    """The tensor whose consecutive parts are queries, keys and values in this order, and nothing else."""
    source, at = None, 0
    for value in projections:
        part = value if axes == 3 or rank(value) == 3 else _rows_behind(value)
        whole, begin, end = _part_of(part)
        if whole is None or begin != at or source not in (None, whole):
            return None
        source, at = whole, end
    return source if source is not None and static_dim(source, 2) == at else None


def _part_of(value: ir.Value | None) -> tuple[ir.Value | None, int, int]:
    """The tensor that a Split or a Slice took a value from, and where along its last axis."""
    node = None if value is None else value.producer()
    nothing = (None, 0, 0)
    if node is None or value is None or node.inputs[0] is None:
        return nothing
    last = (rank(node.inputs[0]) or 0) - 1
    if is_op(node, "Split") and attribute(node, "axis", 0) in (-1, last):
        sizes = [static_dim(output, -1) for output in node.outputs]
        before = sizes[: list(node.outputs).index(value)]
        size = static_dim(value, -1)
        if size is None or None in before:
            return nothing
        begin = sum(filter(None, before))
        return node.inputs[0], begin, begin + size
    if is_op(node, "Slice") and len(node.inputs) > 3:
        given = [constant_array(source) for source in node.inputs[1:]]
        if all(array is not None and array.size == 1 for array in given):
            begin, end, axis, *step = (int(array.ravel()[0]) for array in given if array is not None)
            width = static_dim(node.inputs[0], last)
            if axis in (-1, last) and step in ([], [1]) and width is not None:
                return node.inputs[0], *slice(begin, end).indices(width)[:2]
    return nothing
