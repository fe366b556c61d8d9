# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The table of the series in ``docs/working-groups.md``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tools.pr_series.manifest import ROOT, Series

__all__ = ["PAGE", "Row", "as_table", "rows_of", "shown_rows", "write_page"]

PAGE = ROOT / "docs" / "working-groups.md"
_SHOWN = re.compile(r"(?<=<!-- series -->\n).*?(?=<!-- /series -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """A group in numbers.

    Attributes:
        name: "1 RFC and nouns".
        what: What the group is, in one line.
        files: What people have written.
        lines: The lines in these files.
        generated: Files that programs have written.
    """

    name: str
    what: str
    files: int
    lines: int
    generated: int


def rows_of(series: Series, root: Path = ROOT) -> list[Row]:
    """Every step, then the others."""
    rows = []
    for group in series.groups:
        written = series.written(group)
        lines = sum((root / path).read_bytes().count(b"\n") for path in written)
        name = f"{group.number} {group.title}" if group.number else group.title
        rows.append(Row(name, group.what, len(written), lines, len(series.files[group.title]) - len(written)))
    return rows


def as_table(rows: list[Row]) -> str:
    """In Markdown, with numbers that are right-aligned."""
    lines = ["| Step | What it brings | Files | Lines | Generated files |", "|---|---|---:|---:|---:|"]
    lines += [f"| {row.name} | {row.what} | {row.files} | {row.lines} | {row.generated} |" for row in rows]
    return "\n".join(lines) + "\n"


def shown_rows(text: str) -> list[Row]:
    """The table as a page shows it."""
    found = _SHOWN.search(text)
    lines = found[0].strip().splitlines()[2:] if found else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(name, what, int(files), int(count), int(made)) for name, what, files, count, made in cells]


def write_page(rows: list[Row], page: Path = PAGE) -> None:
    """Puts the table where the page asks for it."""
    page.write_text(_SHOWN.sub(as_table(rows), page.read_text(encoding="utf-8")), encoding="utf-8")
