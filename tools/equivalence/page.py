# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The matrix as a page: whose fault first, then counts, then every cell that is not equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from genai_iface.build.matrix.judge import Cell
from genai_iface.build.matrix.producers import CONTROL, PRODUCERS
from genai_iface.build.matrix.run import Row

__all__ = ["page", "write_report"]

_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# Are exports equal on all tools?

Every tool that makes an ONNX graph of a checkpoint, times every runtime, times families of decoders: does greedy
decoding give torch's tokens, and if not, whose fault is it? Made by `python -m tools.equivalence`; all cells are in
[equivalence.json](equivalence.json). `genai-iface verify CHECKPOINT --matrix` makes the same table for
[one checkpoint of yours](../equivalence.md), where it is said how to read it.

Each family is a tiny checkpoint with random weights in float32, its windows so short that the prompts leave them. Torch
runs each row alone and without any cache. A runtime gets the same three prompts of unequal length, as one ragged batch
where its interface has that, else one by one; then 32 tokens follow. Runtimes with a loop of their own choose them
themselves; the others are fed torch's.
"""
_COLUMNS = """\
In the table a number says on how many runtimes the graph gives torch's tokens; "tie" that rounding decided between two
tokens, which is nobody's fault. **producer**: the same wrong result on all runtimes, or no run on any; **runtime**:
wrong on the named engine only; **open**: the cells do not say. "-2" says that two runtimes that take this form do not
run it; "none" that there is no graph. Reasons follow below.
"""


def write_report(rows: Sequence[Row], versions: Mapping[str, str], folder: Path) -> None:
    """Writes equivalence.md and equivalence.json."""
    data = {"versions": dict(versions), "rows": [row.as_dict() for row in rows]}
    (folder / "equivalence.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "equivalence.md").write_text(page(rows, versions), encoding="utf-8")


def page(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """The page's text."""
    lines = [_HEAD, "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".", ""]
    lines += [*_counts(rows), *_missing(rows), "## Whose fault", "", _COLUMNS, *_table(rows), *_by_runtime(rows)]
    wrong = [row for row in rows if any(cell.is_wrong for cell in row.cells)]
    lines += _section("Wrong results", [line for row in wrong for line in _wrong(row)])
    ties = [row for row in rows if any(cell.verdict == "near tie" for cell in row.cells)]
    lines += _section("Near ties", [line for row in ties for line in _ties(row)])
    broken = [(cell, row) for row in rows for cell in row.cells if cell.is_broken]
    reasons = [(f"{row.producer} on {cell.runtime}", f"{_plain(cell.reason)}", row.name) for cell, row in broken]
    lines += _section("Not run", _grouped(reasons))
    # What a conversion starts from has a line of its own.
    none = [
        (row.producer, _plain(row.problem), row.name)
        for row in rows
        if row.problem and not row.problem.startswith("there is no folder of")
    ]
    lines += _section("No graph", _grouped(none))
    lines += _section("What was made, and how", [f"- {each.name}: `{each.what}`" for each in PRODUCERS.values()])
    return "\n".join(lines) + "\n"


def _counts(rows: Sequence[Row]) -> list[str]:
    families = {row.name for row in rows}
    graphs = [row for row in rows if not row.problem and row.producer != CONTROL]
    cells = Counter(cell.verdict for row in graphs for cell in row.cells)
    ran = sum(cell.ran for row in graphs for cell in row.cells)
    return [
        f"{len(families)} families, {len(graphs)} graphs, {ran} cells that ran: {cells['equal']} equal, "
        f"{cells['near tie']} near ties, {cells['differs']} with other tokens, {cells['inexact']} with torch's tokens "
        f"and logits further away than rounding. {cells['refused'] + cells['crashed']} cells did not run "
        f"({cells['crashed']} of them crashed), in {cells['not applicable']} the runtime takes no graph of that form.",
        "",
    ]


def _missing(rows: Sequence[Row]) -> list[str]:
    """What a run that was ended early has not come to."""
    names = list(dict.fromkeys(row.name for row in rows))
    there = {(row.name, row.producer) for row in rows}
    absent = {each: [name for name in names if (name, each) not in there] for each in PRODUCERS}
    lacking = [f"{each} ({', '.join(of) if len(of) < len(names) else 'all'})" for each, of in absent.items() if of]
    if not lacking:
        return []
    return [f"Not run yet, with an empty cell below, and in no count: {'; '.join(lacking)}.", ""]


def _table(rows: Sequence[Row]) -> list[str]:
    found = {(row.name, row.producer): row for row in rows}
    producers = [CONTROL, *PRODUCERS]
    lines = [f"| Family | {' | '.join(producers)} |", "|---|" + "---|" * len(producers)]
    for name in dict.fromkeys(row.name for row in rows):
        cells = [_short(found.get((name, producer))) for producer in producers]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _short(row: Row | None) -> str:
    if row is None:
        return ""
    if row.problem:
        return "none"
    right, broken = sum(cell.is_right for cell in row.cells), sum(cell.is_broken for cell in row.cells)
    wrong = [cell for cell in row.cells if cell.is_wrong]
    parts = [str(right)] if right else []
    parts += ["tie"] if any(cell.verdict == "near tie" for cell in row.cells) else []
    parts += [f"-{broken}"] if broken else []
    if wrong or (broken and not right):
        parts.append(f"**{row.fault.who}**")
    if wrong and row.fault.who == "runtime":
        parts.append(wrong[0].engine)
    return " ".join(parts) or "no runtime"


def _by_runtime(rows: Sequence[Row]) -> list[str]:
    runtimes = list(dict.fromkeys(cell.runtime for row in rows for cell in row.cells))
    lines = [
        "## Producers on runtimes",
        "",
        "Cells that are equal (near ties among them), of those that were tried.",
        "",
    ]
    lines += [f"| Producer | graphs | {' | '.join(runtimes)} |", "|---|---|" + "---|" * len(runtimes)]
    for producer in (CONTROL, *PRODUCERS):
        made = [row for row in rows if row.producer == producer and not row.problem]
        tried = [
            [cell for row in made for cell in row.cells if cell.runtime == name and cell.verdict != "not applicable"]
            for name in runtimes
        ]
        counts = [f"{sum(cell.is_right for cell in cells)} of {len(cells)}" if cells else "" for cells in tried]
        of = sum(row.producer == producer for row in rows)
        lines.append(f"| {producer} | {len(made)} of {of} | {' | '.join(counts)} |")
    why = [
        (cell.runtime, _plain(cell.reason), row.producer)
        for row in rows
        for cell in row.cells
        if cell.verdict == "not applicable" and row.producer != CONTROL
    ]
    return [*lines, "", "An empty cell was not tried:", "", *_grouped(why), ""]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def _wrong(row: Row) -> list[str]:
    found: dict[str, list[str]] = {}
    for cell in row.cells:
        if cell.is_wrong:
            found.setdefault(_cell(cell), []).append(cell.runtime)
    said = f"- {row.name}, {row.producer} ({row.fault.who}: {_plain(row.fault.reason)})"
    return [said, *(f"    - {', '.join(names)}: {what}" for what, names in found.items())]


def _ties(row: Row) -> list[str]:
    ties = [cell for cell in row.cells if cell.verdict == "near tie"]
    return [f"- {row.name}, {row.producer} on {cell.runtime}: {_cell(cell)}" for cell in ties]


def _cell(cell: Cell) -> str:
    """Where it leaves torch's way, and by how much."""
    away = "no logits shown" if cell.difference is None else f"logits {cell.difference:.0e} away"
    away = cell.reason or away
    where = "" if cell.row is None else f"row {cell.row}, token {(cell.step or 0) + 1}: "
    if cell.verdict == "inexact":
        return f"{where}torch's token, {away}"
    margin = "" if cell.margin is None else f"; torch's margin {cell.margin:.0e}"
    return f"{where}{cell.token} instead of {cell.expected}, {away}{margin}"


def _grouped(entries: Iterable[tuple[str, str, str]]) -> list[str]:
    """One line for each subject and reason, with what it is true of."""
    found: dict[tuple[str, str], list[str]] = {}
    for subject, reason, of in entries:
        names = found.setdefault((subject, reason), [])
        if of not in names:
            names.append(of)
    return [f"- {subject}: {reason} ({', '.join(names)})" for (subject, reason), names in found.items()]


def _plain(text: str) -> str:
    """One line that Markdown leaves alone."""
    line = " ".join(text.split())[:400]
    return "".join(f"\\{char}" if char in "\\`*_<>|[]" else char for char in line)
