# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Draws the events of the worked example: the positions of every row, and what the operators were given."""

from __future__ import annotations

from collections.abc import Sequence

from tools.spec.svg import ACCENT, MARK, Drawing
from tools.spec.worked_example import PAD, Event, GraphRun

__all__ = ["draw_event", "draw_sight"]

_LEFT, _CELL, _HEIGHT = 58, 52, 34
_HEADING = 30


def draw_event(event: Event, *, ring: bool) -> str:
    """One event: a panel for each run of the graph, or one if it took none.

    Args:
        event: The call to draw, and what came of it.
        ring: Whether the buffer wraps around.
    """
    capacity = len(event.positions[0])
    rows = range(len(event.positions))
    panels: Sequence[GraphRun | None] = event.runs or [None]
    height = sum(_HEADING + sum(sum(_room(run, row)) + _HEIGHT for row in rows) for run in panels)
    drawing = Drawing(_LEFT + capacity * _CELL + 96, height + 4, f"{event.name}: the positions after it")
    done = [0] * len(rows)
    y = 0
    for number, run in enumerate(panels):
        drawing.text(4, y + 18, _heading(event, number), anchor="start")
        y += _HEADING
        for row in rows:
            above, below = _room(run, row)
            y += above
            if run is None:
                _row(drawing, y, row, event.positions[row], event.after[row], ring=ring)
            else:
                takes_part = row in run.rows
                done[row] += min(len(event.tokens[row]) - done[row], run.width) if takes_part else 0
                _row(drawing, y, row, run.positions[row], event.before[row] + done[row], ring=ring)
                if takes_part:
                    at = run.rows.index(row)
                    _inputs(drawing, y, run.write_indices[at], run.width, run.nonpad_kv_seqlen[at], capacity, ring=ring)
            y += _HEIGHT + below
    return drawing.render()


def _room(run: GraphRun | None, row: int) -> tuple[int, int]:
    """Pixels above and below a row of positions."""
    return (34, 36) if run is not None and row in run.rows else (6, 10)


def _heading(event: Event, number: int) -> str:
    if event.call == "forward":
        if not event.runs:
            return f"forward: {event.error}, nothing has changed"
        run = event.runs[number]
        which = f"run {number + 1} of {len(event.runs)}: " if len(event.runs) > 1 else ""
        rows = f"row {run.rows[0]} alone, " if len(run.rows) < len(event.positions) else ""
        return f"{which}{rows}S = {run.width}"
    if event.error:
        return f"{event.call}: {event.error}, nothing has changed"
    return f"{event.call}: no run of the graph, no position is touched"


def _row(drawing: Drawing, y: float, row: int, positions: tuple[str, ...], length: int, *, ring: bool) -> None:
    drawing.text(4, y + 22, f"row {row}", anchor="start")
    for position, name in enumerate(positions):
        x = _LEFT + position * _CELL
        valid = bool(name) and (position < length if not ring else length > 0)
        drawing.box(
            x,
            y,
            _CELL - 4,
            _HEIGHT,
            fill="currentColor",
            fill_opacity=0.13 if valid else 0,
            opacity=0.9 if valid else 0.45,
            dashed=bool(name) and not valid,
        )
        if name:
            drawing.text(x + (_CELL - 4) / 2, y + 22, name, opacity=1 if valid else 0.55, mono=True)
    drawing.text(_LEFT + len(positions) * _CELL + 2, y + 22, f"length {length}", anchor="start")


def _inputs(drawing: Drawing, y: float, write: int, width: int, nonpad: int, capacity: int, *, ring: bool) -> None:
    start = write % capacity if ring else write
    x = _LEFT + start * _CELL
    # What was written: a bar over the positions, and the index at its beginning.
    drawing.line(f"M{x} {y - 5}H{x + width * _CELL - 4}", colour=ACCENT, width=4)
    drawing.line(f"M{x + 4} {y - 20}V{y - 12}", colour=ACCENT, width=2)
    drawing.head(x + 4, y - 6, "down", colour=ACCENT)
    modulo = f" (position {start})" if write != start else ""
    # Near the right edge the label stands to the left of its arrow.
    right = start > capacity - 4
    label_x, anchor = (x - 6, "end") if right else (x + 14, "start")
    drawing.text(label_x, y - 12, f"write_indices = {write}{modulo}", anchor=anchor, size=12)
    end = _LEFT + nonpad * _CELL - 4
    drawing.line(f"M{_LEFT} {y + _HEIGHT + 5}V{y + _HEIGHT + 10}H{end}V{y + _HEIGHT + 5}", colour=MARK, width=2)
    drawing.text(_LEFT, y + _HEIGHT + 25, f"nonpad_kv_seqlen = {nonpad}", anchor="start", size=12)


def draw_sight(panels: list[tuple[str, int, list[list[bool]]]], keys: list[str], queries: list[str]) -> str:
    """Which query sees which key.

    Args:
        panels: Heading, ``nonpad_kv_seqlen``, and per query and key whether it is seen.
        keys: Names of the positions.
        queries: Names of the queries.
    """
    cell, left, top = 40, 48, 62
    panel = left + len(keys) * cell + 40
    drawing = Drawing(panel * len(panels) - 20, top + len(queries) * cell + 10, "Which query sees which key")
    for number, (heading, nonpad, sees) in enumerate(panels):
        x0 = number * panel
        drawing.text(x0 + 4, 18, heading, anchor="start")
        drawing.text(x0 + 4, 36, f"nonpad_kv_seqlen = {nonpad}", anchor="start", size=12)
        for column, key in enumerate(keys):
            drawing.text(x0 + left + column * cell + cell / 2, top - 6, key, size=12, mono=True)
        for index, query in enumerate(queries):
            y = top + index * cell
            drawing.text(x0 + left - 8, y + 24, query, anchor="end", size=12, mono=True)
            for column, seen in enumerate(sees[index]):
                x = x0 + left + column * cell
                wrong = seen != (column <= index) and query != PAD
                drawing.box(x, y, cell - 4, cell - 4, fill=MARK, fill_opacity=0.45 if seen else 0, opacity=0.5)
                if wrong:
                    drawing.line(f"M{x + 8} {y + 8}L{x + cell - 12} {y + cell - 12}", colour=ACCENT, width=2.5)
                    drawing.line(f"M{x + cell - 12} {y + 8}L{x + 8} {y + cell - 12}", colour=ACCENT, width=2.5)
    return drawing.render()
