# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the positions that a graph computes or takes, and puts other ones in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Editor, copy_type
from genai_iface.graph._walk import describe, is_op, rank, unsupported
from genai_iface.transform._graph_probe import GraphProbe

__all__ = ["Positions", "StepValues", "find_step_values", "replace_positions"]

# (past, new): no two sizes of a step are equal, nor equal to the batch of 2; the last pair shows what the past changes.
_STEPS = ((4, 3), (0, 5), (11, 4), (6, 3))
_BATCH = 2
_KEEP = "Export the model with an input for positions (position_ids), or keep the past/present model."


@dataclass(frozen=True, slots=True)
class Positions:
    """A value that holds the step's positions.

    Attributes:
        value: The value in the graph.
        offset: What is added to each position.
        axis: Where the tokens lie.
        rows: Whether axis 0 holds the rows of the batch; otherwise it has no rows, or one for all.
    """

    value: ir.Value
    offset: float
    axis: int
    rows: bool


@dataclass(frozen=True, slots=True)
class StepValues:
    """What is known about the index values of a graph.

    Attributes:
        positions: Those that hold positions.
        changing: Those that depend on the number of past tokens.
        shapes: The shape of each in every step of the probe.
    """

    positions: dict[ir.Value, Positions]
    changing: frozenset[ir.Value]
    shapes: dict[ir.Value, tuple[tuple[int, ...], ...]]

    def token_axis(self, value: ir.Value) -> int | None:
        """The axis that is as long as the step, if there is exactly one."""
        axes = [
            axis
            for axis in range(len(self.shapes[value][0]))
            if all(shape[axis] == new for shape, (_, new) in zip(self.shapes[value], _STEPS, strict=True))
        ]
        return axes[0] if len(axes) == 1 else None


def find_step_values(probe: GraphProbe) -> StepValues:
    """Evaluates every index value for some steps.

    Raises:
        UnsupportedModelError: onnx.reference cannot run that part of the graph.
    """
    values = list(probe.index_values)
    runs = [probe.run(values, past, new, batch=_BATCH) for past, new in _STEPS] if values else []
    positions, changing, shapes = {}, set(), {}
    for index, value in enumerate(values):
        arrays = [run[index] for run in runs]
        shapes[value] = tuple(array.shape for array in arrays)
        found = _positions(value, arrays)
        if found is not None:
            positions[value] = found
        if arrays[0].shape != arrays[-1].shape or not np.array_equal(arrays[0], arrays[-1]):
            changing.add(value)
    return StepValues(positions, frozenset(changing), shapes)


def _positions(value: ir.Value, arrays: Sequence[NDArray[np.generic]]) -> Positions | None:
    """Whether the value is past + 0..new-1, plus a constant, along one axis."""
    kinds = set()
    for array, (past, new) in zip(arrays, _STEPS, strict=True):
        if array.dtype.kind not in "iuf" or array.size not in (new, _BATCH * new):
            return None
        rows = array.size != new
        if rows and (array.ndim < 2 or array.shape[0] != _BATCH):
            return None
        axes = [axis for axis in range(array.ndim) if array.shape[axis] == new]
        if len(axes) != 1:
            return None
        flat = array.astype(np.float64).reshape(_BATCH if rows else 1, new) - np.arange(past, past + new)
        if (flat != flat[0, 0]).any():
            return None
        kinds.add((float(flat[0, 0]), axes[0], rows))
    if len(kinds) != 1:
        return None
    offset, axis, rows = kinds.pop()
    return Positions(value, offset, axis, rows)


def replace_positions(
    edit: Editor,
    place: ir.Node,
    found: StepValues,
    positions: ir.Value,
    alive: set[ir.Node],
) -> int:
    """Feeds everything that read positions from new ones; returns how many values were replaced.

    Args:
        edit: The editor of the graph.
        place: Nodes for the new positions go before this one.
        found: What the graph's own values are.
        positions: int64 (B, S), the new ones.
        alive: The nodes that lead to an output.
    """
    maker = _Maker(edit, place, positions)
    fixed: set[ir.Value] = set()
    count = 0
    for value, known in found.positions.items():
        users = [use for use in value.uses() if use.node in alive]
        node = value.producer()
        if not users:
            continue
        if node is not None and any(source in fixed for source in node.inputs):
            fixed.add(value)
            continue
        own = [use for use in users if use.node.outputs[0] not in found.positions]
        if known.axis == 0:
            for use in own:
                _spread(edit, maker, found, alive, use.node, use.idx, known)
                count += 1
        elif known.rows or own:
            ir.convenience.replace_all_uses_with(value, maker.shaped(known))
            count += 1
            fixed.add(value)
            # What is computed from new positions has them already.
            fixed.update(output for use in users for output in use.node.outputs if output in found.positions)
    return count


class _Maker:
    """Positions in every shape and type that the graph asks for, each made once."""

    def __init__(self, edit: Editor, place: ir.Node, positions: ir.Value) -> None:
        self._edit, self._place, self._positions = edit, place, positions
        self._made: dict[tuple[object, ...], ir.Value] = {}

    def _typed(self, offset: float, dtype: ir.DataType | None) -> ir.Value:
        """(B, S) with an offset, in an element type."""
        key = ("typed", offset, dtype)
        if key not in self._made:
            value = self._positions
            if offset:
                constant = self._edit.weight("offset", ir.Tensor(np.array(offset, np.int64)))
                (value,) = self._edit.before(self._place, "Add", [value, constant])
            if dtype not in (None, ir.DataType.INT64):
                (value,) = self._edit.before(self._place, "Cast", [value], {"to": dtype})
            self._made[key] = value
        return self._made[key]

    def shaped(self, like: Positions) -> ir.Value:
        """(B, 1.., S, 1..): the rank and the token axis of a value of the graph."""
        axes = tuple(axis for axis in range(1, _rank_of(like)) if axis != like.axis)
        key = ("shaped", like.offset, like.value.dtype, axes)
        if key not in self._made:
            value = self._typed(like.offset, like.value.dtype)
            if axes:
                (value,) = self._edit.before(self._place, "Unsqueeze", [value, self._edit.ints(*axes)])
            self._made[key] = value
        return self._made[key]

    def flat(self, like: Positions) -> ir.Value:
        """(B * S, 1..): all rows one after the other."""
        trailing = _rank_of(like) - 1
        key = ("flat", like.offset, like.value.dtype, trailing)
        if key not in self._made:
            value = self._typed(like.offset, like.value.dtype)
            shape = self._edit.ints(-1, *[1] * trailing)
            (self._made[key],) = self._edit.before(self._place, "Reshape", [value, shape])
        return self._made[key]

    def width(self) -> ir.Value:
        """int64 (1,): S."""
        if ("width",) not in self._made:
            (self._made["width",],) = self._edit.before(self._place, "Shape", [self._positions], {"start": 1, "end": 2})
        return self._made["width",]


def _rank_of(known: Positions) -> int:
    found = rank(known.value)
    if found is None:
        raise unsupported(f"The rank of the positions {known.value.name!r} is not known", _KEEP)
    return found


def _spread(
    edit: Editor, maker: _Maker, found: StepValues, alive: set[ir.Node], node: ir.Node, at: int, known: Positions
) -> None:
    """Positions without rows: what follows from them is computed for all rows at once, then split into rows."""
    node.replace_input_with(at, maker.flat(known))
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        for output in current.outputs:
            if output not in found.shapes:
                raise unsupported(
                    f"The {describe(current)} takes positions that have no rows, and what it gives cannot be split "
                    "into rows",
                    _KEEP,
                )
            for user, index in tuple(output.uses()):
                if user in seen or user not in alive:
                    continue
                if user.outputs[0] in found.shapes:
                    seen.add(user)
                    pending.append(user)
                else:
                    user.replace_input_with(index, _rows(edit, maker, found, output, user, index))


def _rows(edit: Editor, maker: _Maker, found: StepValues, value: ir.Value, user: ir.Node, index: int) -> ir.Value:
    """(.., B * S, ..) as (B, 1.., S, ..), with the rank of what it meets."""
    axis, shape = found.token_axis(value), found.shapes[value][0]
    others = [rank(source) for place, source in enumerate(user.inputs) if place != index and source is not None]
    axes = max((count for count in others if count is not None), default=0)
    # cos and sin of RotaryEmbedding have rank 3 whatever the rank of its input.
    axes = 3 if is_op(user, "RotaryEmbedding") else axes
    trailing = shape[(axis or 0) + 1 :]
    if axis is None or any(size != 1 for size in shape[:axis]) or axes < len(trailing) + 2:
        raise unsupported(
            f"The {describe(user)} reads positions that have no rows in the shape {shape}, which cannot be split", _KEEP
        )
    ones = [1] * (axes - 2 - len(trailing))
    parts = [edit.ints(-1, *ones), maker.width(), *([edit.ints(*trailing)] if trailing else [])]
    (target,) = edit.before(user, "Concat", parts, {"axis": 0})
    (result,) = edit.before(user, "Reshape", [value, target])
    copy_type(value, result)
    return result
