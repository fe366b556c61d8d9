# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The scoreboard: a row for each submission, a cell for each level."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genai_iface.conformance._golden import manifest_digest
from genai_iface.conformance.registry import LEVELS

__all__ = ["scoreboard"]

_SYMBOLS = {"conforms": "✓", "known_deviations": "△", "does_not_reach": "✗", "no_verdict": "○"}
_CHECKS = "../../conformance-checks/#"


def scoreboard(folders: Iterable[Path]) -> str:
    """The table as HTML, which Markdown passes on; what a cell means is in its words.

    Args:
        folders: Each with a report.json; submission.json beside it says on what it was made.
    """
    rows = [_row(folder, json.loads((folder / "report.json").read_text(encoding="utf-8"))) for folder in folders]
    heads = "".join(f"<th>{level} {subject}</th>" for level, subject in LEVELS.items())
    return "\n".join(
        [
            '<table class="scoreboard">',
            f"<thead><tr><th>runtime</th><th>profile</th><th>dtype</th>{heads}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody>",
            "</table>",
        ]
    )


def _row(folder: Path, report: Mapping[str, Any]) -> str:
    backend = report["backend"]
    name = html.escape(f"{report['adapter']}: {backend['runtime']} {backend['runtime_version']}")
    link = f'<a href="../conformance/{folder.name}/report/">{name}</a>'
    by_level = {item["level"]: item for item in report["levels"]}
    cells = "".join(_level(level, by_level.get(level), report["checks"]) for level in LEVELS)
    about = "<br>".join(_about(folder, report))
    return (
        f'<tr><td data-label="runtime">{link}<br><small>{about}</small></td>'
        f'<td data-label="profile">{report["profile"]}</td><td data-label="dtype">{report["dtype"]}</td>{cells}</tr>'
    )


def _about(folder: Path, report: Mapping[str, Any]) -> Iterator[str]:
    said = report["capabilities"]
    yield f"{said['declared']} of {said['known']} capabilities, seed {report['seed']}"
    path = folder / "submission.json"
    if path.is_file():
        made = json.loads(path.read_text(encoding="utf-8"))
        machine = made["machine"]
        yield html.escape(f"{made['made']}, {machine['cpus']} CPUs, {machine['processor'] or machine['architecture']}")
    else:
        yield "not submitted: a report alone"
    if report["golden_sha256"] != manifest_digest():
        yield "with earlier golden models"


def _level(level: int, item: Mapping[str, Any] | None, checks: Iterable[Mapping[str, Any]]) -> str:
    label = f'data-label="{level} {LEVELS[level]}"'
    counts = {} if item is None else item["counts"]
    applicable = sum(counts.values()) - counts.get("not_applicable", 0)
    if item is None or not applicable:
        return f'<td {label} class="no_verdict">○ not shown</td>'
    verdict = item["verdict"]
    words = f"{_SYMBOLS[verdict]} {counts['passed']} of {applicable}"
    words += f", {counts['deviation']} known" if counts["deviation"] else ""
    words += f", {counts['failed']} failed" if counts["failed"] else ""
    first = next(
        (check for check in checks if check["level"] == level and check["status"] in ("failed", "deviation")), None
    )
    if first is None:
        return f'<td {label} class="{verdict}">{words}</td>'
    clause = first["spec"][0] if first["spec"] else "no clause"
    finding = html.escape(f"{first['id']} ({clause}): {first['message'].partition(' [')[0]}")
    # A pointer shows the title, a finger opens the details.
    return (
        f'<td {label} class="{verdict}"><details><summary title="{finding}">{words}</summary>'
        f'first: <a href="{_CHECKS}{first["id"]}">{first["id"]}</a>, {html.escape(clause)}: '
        f"{html.escape(first['message'].partition(' [')[0])}</details></td>"
    )
