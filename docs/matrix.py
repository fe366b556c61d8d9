# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the conformance matrix, made from the reports, where a page asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

MARKER = "<!-- conformance-matrix -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces the marker by the table."""
    if MARKER not in markdown:
        return markdown
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(MARKER, matrix(Path(config.docs_dir) / "reports" / "conformance", up))


def matrix(reports: Path, up: str = "") -> str:
    """Runtimes and element types by levels.

    Args:
        reports: The folder that holds a folder with ``report.json`` for each run.
        up: The way from the page to the site's root.
    """
    runs = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in reports.glob("*/report.json")}
    # Where a target lets less be seen, its report has fewer levels.
    levels = sorted({(level["level"], level["subject"]) for run in runs.values() for level in run["levels"]})
    lines = [
        "| Runtime | Profile | Element type | " + " | ".join(f"{level} {subject}" for level, subject in levels) + " |",
        "|---|---|---|" + "---|" * len(levels),
    ]
    for name, run in sorted(runs.items()):
        runtime = f"{run['backend']['runtime']} {run['backend']['runtime_version']}"
        judged = {level["level"]: _cell(level) for level in run["levels"]}
        cells = " | ".join(judged.get(level, "not shown") for level, _ in levels)
        report = f"[{run['dtype']}]({up}reports/conformance/{name}/report.md)"
        lines.append(f"| {runtime} | {run.get('profile', 'step')} | {report} | {cells} |")
    return "\n".join(lines)


def _cell(level: dict[str, Any]) -> str:
    counts = level["counts"]
    applicable = sum(counts.values()) - counts["not_applicable"]
    if not applicable:
        return "-"
    known = f", {counts['deviation']} known" if counts["deviation"] else ""
    # Known deviations are counted already.
    missed = (
        "" if level["verdict"] in ("conforms", "known_deviations") else f" **{level['verdict'].replace('_', ' ')}**"
    )
    return f"{counts['passed']}/{applicable}{known}{missed}"
