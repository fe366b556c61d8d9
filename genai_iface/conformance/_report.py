# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reports of one run: report.json for machines, report.md for a pull request, report.html for a site.

Beside them junit.xml and badge.json, for continuous integration and for a README.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from textwrap import indent
from typing import Any

from genai_iface import __version__
from genai_iface._new_files import new_file, temporary_name
from genai_iface.conformance._formats import as_badge, as_junit
from genai_iface.conformance._golden import kit_digest, manifest_digest
from genai_iface.conformance._results import ConformanceResult
from genai_iface.conformance.registry import LEVELS
from genai_iface.errors import InvalidInputError, OutputError
from genai_iface.version import INTERFACE_VERSION

__all__ = [
    "SCHEMA",
    "WORDS",
    "as_html",
    "as_json",
    "as_markdown",
    "check_report_folder",
    "claim_in_words",
    "verdict_in_words",
    "write_report",
]

SCHEMA = Path(__file__).parent / "report.schema.json"
"""The JSON Schema of report.json."""

# The header of the reports that are written, not of this file.
# REUSE-IgnoreStart
_LICENCE = (
    "<!-- SPDX-FileCopyrightText: The ONNX generative-AI interface authors -->",
    "<!-- SPDX-License-Identifier: Apache-2.0 -->",
)
# REUSE-IgnoreEnd
WORDS = {
    "conforms": "conforms",
    "known_deviations": "with known deviations",
    "does_not_reach": "does not reach",
    "no_verdict": "no verdict",
}
_STYLE = """
body {font-family: sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em}
table {border-collapse: collapse}
td, th {border: 1px solid #888; padding: .2em .6em; text-align: left; vertical-align: top}
.failed {background: #f8c9c9} .deviation {background: #f8e6b8} .passed {background: #d5efd5}
"""
# Bytes that are tried, so that a full disk shows before the checks run.
_ABOUT_A_REPORT = 2**18
_STATUSES = ("passed", "failed", "deviation", "not_applicable", "not_executed")


def write_report(run: ConformanceResult, folder: str | PathLike[str], /) -> list[Path]:
    """Writes report.json, report.md, report.html, junit.xml and badge.json and returns their paths.

    Raises:
        InvalidInputError: There is no such folder and there cannot be one.
        OutputError: They cannot be written; none is there then.
    """
    data = as_json(run)
    target = check_report_folder(folder)
    texts = {
        "report.json": json.dumps(data, indent=1) + "\n",
        "report.md": as_markdown(data),
        "report.html": as_html(data),
        "junit.xml": as_junit(data),
        "badge.json": json.dumps(as_badge(data, verdict_in_words(data)), indent=1) + "\n",
    }
    with ExitStack() as files:
        # All take their names when all are written.
        for name, text in texts.items():
            files.enter_context(new_file(target / name)).write_text(text, encoding="utf-8")
    return [target / name for name in texts]


def check_report_folder(folder: str | PathLike[str], /) -> Path:
    """The folder, made if it is not there; whether a report fits in is worth knowing before the checks run.

    Raises:
        InvalidInputError: There cannot be a folder of that name.
        OutputError: Nothing can be written there.
    """
    if not os.fspath(folder) or "\0" in os.fspath(folder):
        raise InvalidInputError(f"{os.fspath(folder)!r} cannot name a folder", remedy="Give a folder for the report.")
    target = Path(folder)
    trial = target / temporary_name("report")
    try:
        target.mkdir(parents=True, exist_ok=True)
        try:
            trial.write_bytes(bytes(_ABOUT_A_REPORT))
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"A report cannot be written to {str(target)!r}: {error.strerror}",
            remedy="Give a folder that you may write to, with room.",
        ) from error
    return target


def as_json(run: ConformanceResult) -> dict[str, Any]:
    """The run as plain data; ``report.schema.json`` describes it."""
    return {
        "format": 2,
        "interface_version": INTERFACE_VERSION,
        "golden_sha256": manifest_digest(),
        "kit": {"version": __version__, "sha256": kit_digest()},
        "adapter": run.adapter,
        "backend": dict(run.backend),
        "dtype": run.dtype,
        "form": run.form,
        "profile": run.profile,
        "seed": run.seed,
        "level": run.level,
        "capabilities": dict(zip(("declared", "known"), run.declared, strict=True)),
        "tolerance_factor": run.factor,
        "verdict": run.verdict,
        "seconds": round(run.seconds, 2),
        "levels": [
            {
                "level": item.level,
                "subject": LEVELS[item.level],
                "verdict": item.verdict,
                "counts": {status: item.counts.get(status, 0) for status in _STATUSES},  # type: ignore[call-overload]
                "missing_capabilities": list(item.missing),
            }
            for item in run.levels
        ],
        "checks": [
            {
                "id": item.check.id,
                "level": item.check.level,
                "title": item.check.title,
                "requires": sorted(item.check.requires),
                "spec": list(item.check.spec),
                "since": item.check.since,
                "core": item.check.core,
                "status": item.status,
                "message": item.message,
                "numbers": dict(item.numbers),
                "seconds": round(item.seconds, 3),
                "link": item.link,
            }
            for item in run.outcomes
        ],
    }


def verdict_in_words(data: Mapping[str, Any]) -> str:
    """The verdict as it must be published, in the three words of the specification."""
    level, number = data["level"], sum(item["status"] == "deviation" for item in data["checks"])
    words = {
        "conforms": f"conforms at level {level}",
        "known_deviations": f"level {level} with {number} known deviation{'s' if number > 1 else ''}",
        "does_not_reach": f"does not reach level {level}",
        "no_verdict": f"no verdict at level {level}",
    }
    return words[data["verdict"]]


def claim_in_words(data: Mapping[str, Any]) -> str:
    """Who, with what, and the verdict: the line that a claim of conformance quotes."""
    said = data["capabilities"]
    return (
        f"{data['adapter']}, {data['dtype']}: {verdict_in_words(data)} (profile {data['profile']}, "
        f"{said['declared']} of {said['known']} capabilities)"
    )


def as_markdown(data: Mapping[str, Any]) -> str:
    """The report for a pull request."""
    backend = data["backend"]
    lines = [
        *_LICENCE,
        "",
        f"# Conformance of {data['adapter']}, {data['dtype']}: {verdict_in_words(data)}",
        "",
        f"{claim_in_words(data)}.",
        "",
        f"Backend {backend['name']} {backend['version']} on {backend['runtime']} {backend['runtime_version']}, golden "
        f"models in the form `{data['form']}`, interface version {data['interface_version']}, "
        f"{len(data['checks'])} checks in {data['seconds']:.0f} s, seed {data['seed']}.",
        "",
        "| level | verdict | passed | failed | deviation | not applicable | not executed |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for level in data["levels"]:
        counts = " | ".join(str(level["counts"][status]) for status in _STATUSES)
        lines.append(f"| {level['level']} {level['subject']} | {WORDS[level['verdict']]} | {counts} |")
    for level in data["levels"]:
        if level["missing_capabilities"]:
            names = ", ".join(level["missing_capabilities"])
            lines += ["", f"Level {level['level']} asks for what the backend does not declare: {names}."]
    for status, heading in (
        ("failed", "Failed"),
        ("deviation", "Known deviations"),
        ("not_applicable", "Not applicable"),
    ):
        chosen = [item for item in data["checks"] if item["status"] == status]
        if not chosen:
            continue
        lines += ["", f"## {heading}", ""]
        lines += _reasons(chosen) if status == "not_applicable" else [_as_item(item) for item in chosen]
    lines += ["", "## All checks", "", "| check | status | what |", "|---|---|---|"]
    lines += [
        f"| `{item['id']}` | {item['status'].replace('_', ' ')} | {_cell(item['title'])} |" for item in data["checks"]
    ]
    return "\n".join(lines) + "\n"


def as_html(data: Mapping[str, Any]) -> str:
    """The report as a page that needs nothing else."""
    return "\n".join(_html_lines(data)) + "\n"


def _as_item(item: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} {_number(value)}" for name, value in item["numbers"].items())
    told, _, program = item["message"].partition("\n")
    text = f"- `{item['id']}`: {told}"
    if numbers:
        text += f" ({numbers})"
    text += f" [{item['link']}]({item['link']})" if item["link"] else ""
    if program:
        # What a walk prints is Python, which Markdown would read as its own.
        text += "\n\n" + indent(f"```python\n{program}\n```", "    ") + "\n"
    return text


def _reasons(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per reason: many checks may share one."""
    by_reason: dict[str, list[str]] = {}
    for item in items:
        by_reason.setdefault(item["message"], []).append(f"`{item['id']}`")
    return [f"- {reason}: {', '.join(names)}" for reason, names in by_reason.items()]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _html_lines(data: Mapping[str, Any]) -> Iterator[str]:
    title = html.escape(f"Conformance of {data['adapter']}, {data['dtype']}: {verdict_in_words(data)}")
    backend = data["backend"]
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield from _LICENCE
    yield f"<title>{title}</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield f"<h1>{title}</h1>"
    about = f"{backend['name']} {backend['version']} on {backend['runtime']} {backend['runtime_version']}"
    yield f"<p>{html.escape(claim_in_words(data))}.</p>"
    yield f"<p>Backend {html.escape(about)}, form {data['form']}, {len(data['checks'])} checks.</p>"
    heads = "".join(f"<th>{status.replace('_', ' ')}</th>" for status in _STATUSES)
    yield f"<table><tr><th>level</th><th>verdict</th>{heads}</tr>"
    for level in data["levels"]:
        counts = "".join(f"<td>{level['counts'][status]}</td>" for status in _STATUSES)
        yield f"<tr><td>{level['level']} {level['subject']}</td><td>{WORDS[level['verdict']]}</td>{counts}</tr>"
    yield "</table><h2>Checks</h2><table><tr><th>check</th><th>status</th><th>what</th><th>finding</th></tr>"
    for item in data["checks"]:
        finding = _as_item(item).partition(": ")[2] if item["message"] else ""
        status = item["status"]
        yield (
            f'<tr class="{status}"><td><code>{item["id"]}</code></td><td>{status.replace("_", " ")}</td>'
            f"<td>{html.escape(item['title'])}</td><td>{html.escape(finding)}</td></tr>"
        )
    yield "</table></body></html>"
