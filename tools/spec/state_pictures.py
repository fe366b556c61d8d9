# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Draws calls of the page "State": how long each row is, what its state holds, and where it can go back to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.spec.svg import ACCENT, MARK, Drawing

__all__ = ["PICTURES", "draw_call"]

PICTURES = {
    "state-prefill": "prompts of 4 and 2 tokens",
    "state-idle": "row 1 idles",
    "state-rewind": "rewind_to([5, 3])",
    "state-refused": "rewind_to([4, 3])",
    "state-checkpoint": "rewind_to([5, 4])",
}
"""File names, and the calls that they show."""

_LEFT, _CELL, _HEIGHT = 58, 36, 30
_HEADING, _BETWEEN, _ROW = 30, 64, 66
_POSITIONS = 8


def draw_call(told: Mapping[str, Any]) -> str:
    """One call.

    Args:
        told: An entry of ``state_example.tell()``.
    """
    rows = range(len(told["lengths"]))
    place = _LEFT + _POSITIONS * _CELL + _BETWEEN
    columns = max(len(state) for state in told["states"])
    size = (place + columns * (_CELL + 8) + 90, _HEADING + len(rows) * _ROW)
    drawing = Drawing(*size, f"{told['call']}: lengths, states, and the lengths that can be reached")
    drawing.text(4, 18, _heading(told), anchor="start")
    for row in rows:
        y = _HEADING + row * _ROW + 2
        length, counts = told["lengths"][row], told["counts"]
        drawing.text(4, y + 20, f"row {row}", anchor="start")
        for position in range(_POSITIONS):
            is_held = position < length
            x = _LEFT + position * _CELL
            shade = 0.13 if is_held else 0
            drawing.box(
                x, y, _CELL - 4, _HEIGHT, fill="currentColor", fill_opacity=shade, opacity=0.9 if is_held else 0.4
            )
        if counts is not None and counts[row]:
            begin = _LEFT + (length - counts[row]) * _CELL
            drawing.line(f"M{begin} {y - 4}H{_LEFT + length * _CELL - 4}", colour=ACCENT, width=4)
        for reached in told["reachable"][row]:
            x = _LEFT + reached * _CELL - 2
            drawing.head(x, y + _HEIGHT + 2, "up", colour=MARK)
            drawing.text(x, y + _HEIGHT + 24, str(reached), size=12)
        drawing.text(_LEFT + _POSITIONS * _CELL + 4, y + 20, "state", anchor="start")
        for column, token in enumerate(told["states"][row]):
            x = place + column * (_CELL + 8)
            drawing.box(x, y, _CELL + 4, _HEIGHT, fill=MARK, fill_opacity=0.16, radius=4)
            drawing.text(x + (_CELL + 4) / 2, y + 20, token, mono=True)
        drawing.text(place + columns * (_CELL + 8) + 4, y + 20, f"length {length}", anchor="start")
    return drawing.render()


def _heading(told: Mapping[str, Any]) -> str:
    if told["error"]:
        return f"{told['call']}: CacheRewindError, nothing has changed"
    if told["counts"] is None:
        return str(told["call"])
    return f"forward, counts {told['counts']}: {told['call']}"
