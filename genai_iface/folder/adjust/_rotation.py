# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary tables: what the graph turns queries and keys by, beside what config.json says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.folder.adjust._told_rotation import ToldRotation, told_rotations
from genai_iface.graph._attention import OPERATORS
from genai_iface.graph._walk import SAME_ELEMENTS, input_at, is_op, op

if TYPE_CHECKING:
    from genai_iface.folder.resolve._side_files import SideFiles

__all__ = ["rotation_note"]

_Angles = NDArray[np.complex128]

# A wrong base is far off at some of these; rounding of a half-precision table is not.
_POSITIONS = (1, 2, 5, 13, 31)
_TOLERANCE = 0.02
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# From positions times frequencies to a Cos.
_TO_ANGLES = SAME_ELEMENTS | {"Mul", "MatMul", "Concat", "Expand", "Einsum"}
_STEPS = 24
_MOST_FREQUENCIES = 1024


def rotation_note(model: ir.Model, side: SideFiles) -> str | None:
    """Which of graph and config.json won where they turn by other angles; None where they agree, or one is silent.

    Compared are the tables of rotary operators and the constant frequencies that a Cos follows from.
    """
    told = told_rotations(side.config)
    if not told:
        return None
    for turned in _rotations(model.graph):
        if not any(_agree(turned, rotation) for rotation in told):
            shown = " and ".join(dict.fromkeys(map(str, told)))
            return f"rotation: the graph's is used ({_described(turned)}); {side.config_name} says {shown}"
    return None


def _rotations(graph: ir.Graph) -> Iterator[_Angles]:
    """Complex (positions, D/2) of length 1: how far each pair is turned at ``_POSITIONS``."""
    seen = set()
    for node in graph:
        tables = _tables(node)
        if tables is not None and tables[0] not in seen:
            seen.add(tables[0])
            turned = _of_tables(*tables)
            if turned is not None:
                yield turned
        if is_op(node, "Cos"):
            for value in _constants_before(node):
                if value not in seen:
                    seen.add(value)
                    frequencies = _frequencies(value)
                    if frequencies is not None:
                        yield np.exp(1j * np.outer(_POSITIONS, frequencies))


def _tables(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The constant tables of cosines and sines that an operator reads."""
    name = op(node)
    first = {"RotaryEmbedding": 1, "com.microsoft.RotaryEmbedding": 2}.get(name)
    first = OPERATORS[name].cos if first is None and name in OPERATORS else first
    if first is None:
        return None
    cos, sin = input_at(node, first), input_at(node, first + 1)
    return (cos, sin) if cos is not None and sin is not None and _is_weight(cos) and _is_weight(sin) else None


def _of_tables(cos: ir.Value, sin: ir.Value) -> _Angles | None:
    parts = []
    for value in (cos, sin):
        if value.const_value is None or value.dtype not in _FLOATS or len(value.const_value.shape) != 2:
            return None
        table = value.const_value.numpy()
        if len(table) <= _POSITIONS[-1]:
            return None
        parts.append(np.asarray(table[list(_POSITIONS)], np.float64))
    if parts[0].shape != parts[1].shape:
        return None
    turned = np.asarray(parts[0] + 1j * parts[1], np.complex128)
    length = np.abs(turned)
    if not (np.isfinite(length).all() and length.all()):
        return None
    return np.asarray(turned / length, np.complex128)  # scalings multiply both by a number


def _constants_before(cos: ir.Node) -> Iterator[ir.Value]:
    """The weights that the angles follow from, a few steps back."""
    pending = [value for value in cos.inputs if value is not None]
    for value in pending:
        if len(pending) > _STEPS:
            return
        if _is_weight(value):
            yield value
        node = value.producer()
        # A wide node is none on this way, and would be listed again for each Cos behind it.
        if node is not None and len(node.inputs) <= _STEPS and op(node) in _TO_ANGLES:
            pending.extend(source for source in node.inputs if source is not None)


def _frequencies(value: ir.Value) -> NDArray[np.float64] | None:
    """What falls from about 1 is a row of frequencies; other constants are not."""
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _FLOATS or not 2 <= tensor.size <= _MOST_FREQUENCIES:
        return None
    numbers = np.asarray(tensor.numpy(), np.float64).ravel()
    is_falling = bool((np.diff(numbers) < 0).all()) and numbers[-1] > 0
    return numbers if is_falling and numbers[0] <= 1 + _TOLERANCE else None


def _is_weight(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _agree(turned: _Angles, told: ToldRotation) -> bool:
    expected = np.exp(1j * np.outer(_POSITIONS, told.frequencies(turned.shape[1])))
    return bool((np.abs(turned - expected) <= _TOLERANCE).all())


def _described(turned: _Angles) -> str:
    """The base of the table, if its frequencies are powers of one."""
    frequencies = np.angle(turned[0])
    count = len(frequencies)
    middle = count // 2
    if frequencies[middle] > 0 and abs(frequencies[0] - 1) < _TOLERANCE:
        base = float(frequencies[middle] ** (-count / middle))
        if np.abs(turned[0] - np.exp(1j * base ** (-np.arange(count) / count))).max() <= _TOLERANCE:
            return f"a base of about {base:.3g}"
    return "frequencies that are scaled"
