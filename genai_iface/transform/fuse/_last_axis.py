# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reading how a value is cut, joined and repeated along its last axis, as exporters write it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from genai_iface.graph._edit import constant_array
from genai_iface.graph._walk import attribute, input_at, is_op, rank, static_dim

__all__ = ["Cut", "cut_of", "interleaved", "joined", "on_last_axis", "pairs_repeated", "scalar", "unsqueezed"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Elements start, start + step, ... before stop of the last axis of a value.

    Attributes:
        whole: The value that is cut.
        start: The first element.
        stop: End, at most the size.
        step: 1, or 2 for every other element.
    """

    whole: ir.Value
    start: int
    stop: int
    step: int = 1

    def is_first_half(self) -> bool:
        """Whether this is the first half of the whole."""
        size = static_dim(self.whole, -1)
        return size is not None and (self.start, self.stop * 2, self.step) == (0, size, 1)

    def is_second_half(self) -> bool:
        """Whether this is the second half of the whole."""
        size = static_dim(self.whole, -1)
        return size is not None and (self.start * 2, self.stop, self.step) == (size, size, 1)

    def is_every_other(self, start: int) -> bool:
        """Whether these are the even (start 0) or the odd (start 1) elements of the whole."""
        size = static_dim(self.whole, -1)
        return size is not None and size % 2 == 0 and (self.start, self.step) == (start, 2) and self.stop >= size - 1


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant with one element."""
    array = constant_array(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def on_last_axis(axis: int, value: ir.Value) -> bool:
    """Whether an axis is the last one of a value."""
    axes = rank(value)
    return axis == -1 or (axes is not None and axis == axes - 1)


def cut_of(value: ir.Value | None) -> Cut | None:
    """How a Slice or a Split cuts the last axis; None if the value is not such a thing."""
    node = None if value is None else value.producer()
    whole = None if node is None else input_at(node, 0)
    if value is None or node is None or whole is None:
        return None
    size = static_dim(whole, -1)
    if size is None:
        return None
    if is_op(node, "Slice"):
        given = [constant_array(input_at(node, index)) for index in range(1, 5)]
        starts, stops, axes, steps = given
        if starts is None or stops is None or axes is None or any(a is not None and a.size != 1 for a in given):
            return None
        if len(node.inputs) > 4 and steps is None:
            return None
        start, stop = int(starts.reshape(-1)[0]), int(stops.reshape(-1)[0])
        step = 1 if steps is None else int(steps.reshape(-1)[0])
        if not on_last_axis(int(axes.reshape(-1)[0]), whole) or step < 1:
            return None
        start, stop = (each + size if each < 0 else each for each in (start, stop))
        return Cut(whole, max(start, 0), min(stop, size), step)
    if is_op(node, "Split") and on_last_axis(attribute(node, "axis", 0), whole):
        sizes = [static_dim(output, -1) for output in node.outputs]
        index = list(node.outputs).index(value)
        before = [each for each in sizes[: index + 1] if each is not None]
        if len(before) == index + 1:
            return Cut(whole, sum(before[:-1]), sum(before))
    return None


def joined(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The two values that a Concat on the last axis joins."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Concat") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if first is None or second is None or not on_last_axis(attribute(node, "axis", 0), first):
        return None
    return first, second


def unsqueezed(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """What an Unsqueeze takes, and the one axis (not negative) that it adds."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Unsqueeze"):
        return None
    inner, axes = node.inputs[0], constant_array(node.inputs[1])
    size = None if inner is None else rank(inner)
    if inner is None or size is None or axes is None or axes.size != 1:
        return None
    axis = int(axes.reshape(-1)[0])
    return inner, axis + size + 1 if axis < 0 else axis


def interleaved(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The (even, odd) elements of a value that a stack of two and a Reshape interleave: (..., h) twice to (..., 2h)."""
    node = None if value is None else value.producer()
    if value is None or node is None or not is_op(node, "Reshape"):
        return None
    parts = joined(node.inputs[0])
    if parts is None:
        return None
    inner = []
    for part in parts:
        found = unsqueezed(part)
        if found is None or found[1] != rank(found[0]):
            return None
        inner.append(found[0])
    half = static_dim(inner[0], -1)
    same = rank(value) == rank(inner[0]) and half is not None and static_dim(value, -1) == 2 * half
    return (inner[0], inner[1]) if same else None


def pairs_repeated(value: ir.Value | None) -> ir.Value | None:
    """What is repeated where a value has each element twice: (..., h) to (..., 2h) as repeat_interleave writes it.

    The result may lack the axis 1 or 2 of the value, of size 1, where the same Unsqueeze has added it.
    """
    node = None if value is None else value.producer()
    if value is None or node is None or not is_op(node, "Reshape"):
        return None
    expand = None if node.inputs[0] is None else node.inputs[0].producer()
    if expand is None or not is_op(expand, "Expand", "Tile") or expand.inputs[0] is None:
        return None
    add, wide = expand.inputs[0].producer(), expand.outputs[0]
    if add is None or not is_op(add, "Unsqueeze") or add.inputs[0] is None:
        return None
    inner, axes, size = add.inputs[0], constant_array(add.inputs[1]), rank(wide)
    added = None if axes is None or size is None else sorted(axis % size for axis in axes.reshape(-1).tolist())
    if size is None or added not in ([size - 1], [1, size - 1], [2, size - 1]):
        return None
    half = static_dim(inner, -1)
    # Last sizes (h, 2), then 2h with one axis less, leave no other reading: the new axis of two, then flattened.
    twice = half is not None and static_dim(wide, -1) == 2 and static_dim(value, -1) == 2 * half
    return inner if twice and static_dim(wide, -2) == half and rank(value) == size - 1 else None
