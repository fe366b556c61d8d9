# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the kit on this repository's runtimes and writes every page that shows its results.

    python -m tools.conformance_pages              # the pages, from the reports that are there
    python -m tools.conformance_pages --run numpy  # first run numpy in all its dtypes
    python -m tools.conformance_pages --run all

Reports of a runtime are written to docs/reports/conformance/NAME-DTYPE/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from genai_iface.conformance import all_checks, as_json, load_adapter, read_deviations, run_checks, write_report
from genai_iface.conformance._context import Context
from genai_iface.conformance._report import claim_in_words
from genai_iface.conformance._results import Outcome
from genai_iface.conformance._runner import run_check
from genai_iface.conformance.registry import LEVELS, Check
from genai_iface.conformance.submission import write_submission
from genai_iface.conformance.walk import _search
from tests.conformance.mutants import Mutant
from tools.conformance_pages.scoreboard import scoreboard
from tools.spec.clauses import all_clauses
from tools.spec.render import clause_link

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = DOCS / "reports" / "conformance"
ADAPTERS = {
    "numpy": "numpy",
    "ort": "ort",
    "transformers": "transformers",
    "openvino": "examples.new_runtime.openvino_runtime:OpenVinoAdapter",
    "ort-genai": "ort-genai",
    "transformers-generate": "python examples/harness_transformers/harness.py",
    "openvino-genai": "python examples/harness_openvino_genai/harness.py",
    "llama-cpp": "python examples/harness_llama_cpp/harness.py",
    "llama-cpp-python": "python examples/harness_llama_cpp/generator.py",
    "openvino-cpp": "examples/harness_cpp/harness",
    "transformers-js": "node examples/harness_transformers_js/harness.mjs",
    "onnxruntime-node": "node examples/harness_javascript/harness.mjs onnxruntime-node",
    "onnxruntime-web": "node examples/harness_javascript/harness.mjs onnxruntime-web",
    "onnxruntime-web-chromium": "node examples/harness_javascript/chromium.mjs wasm",
    "onnxruntime-web-webgpu": "node examples/harness_javascript/chromium.mjs",
}
"""A backend, an adapter, or the command of a harness."""
DTYPES = ("float32", "float16", "bfloat16")

_HEAD = """\
<!-- SPDX-FileCopyrightText: The ONNX generative-AI interface authors -->
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by python -m tools.conformance_pages -->

"""


def main() -> int:
    """Runs what is asked for and writes the pages; 1 if a run did not reach its level."""
    parser = argparse.ArgumentParser(description="Writes the conformance pages of the documentation.")
    parser.add_argument("--run", action="append", default=[], choices=[*ADAPTERS, "all"], metavar="NAME")
    parser.add_argument("--level", type=int, default=4)
    parser.add_argument("--one", metavar="DTYPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return _run(arguments.run[0], arguments.one, arguments.level)
    failed = 0
    for name in ADAPTERS if "all" in arguments.run else arguments.run:
        for dtype in DTYPES:
            # Runtimes do not share a process, so that none can lean on another's settings.
            this = [sys.executable, "-m", "tools.conformance_pages", "--run", name, "--one", dtype]
            failed |= subprocess.run([*this, "--level", str(arguments.level)], check=False).returncode
    (DOCS / "conformance-checks.md").write_text(checks_page(), encoding="utf-8")
    (DOCS / "reports" / "mutants.md").write_text(mutants_page(), encoding="utf-8")
    (DOCS / "reports" / "conformance.md").write_text(matrix_page(), encoding="utf-8")
    (DOCS / "reports" / "scoreboard.md").write_text(scoreboard_page(), encoding="utf-8")
    return failed


def _run(name: str, dtype: str, level: int) -> int:
    from genai_iface.conformance.wire import WireAdapter  # noqa: PLC0415 - the review meets it after this step

    target = ADAPTERS[name]
    adapter = WireAdapter(target) if _is_command(target) else load_adapter(target)
    if dtype not in adapter.backend().info().dtypes:
        return 0
    deviations = REPORTS / f"{name}-deviations.json"
    known = read_deviations(deviations, dtype=dtype) if deviations.exists() else None
    run = run_checks(adapter, level=level, dtype=dtype, deviations=known)
    write_report(run, REPORTS / f"{name}-{dtype}")
    write_submission(REPORTS / f"{name}-{dtype}", command=command(name, dtype))
    print(claim_in_words(as_json(run)))
    return int(run.verdict not in ("conforms", "known_deviations"))


def _is_command(target: str) -> bool:
    return "/" in target


def command(name: str, dtype: str) -> str:
    """The command that gives a report's numbers, from the root of the repository."""
    target = ADAPTERS[name]
    words = ["genai-iface", "conformance", *(["--command", target] if _is_command(target) else [target])]
    if dtype != "float32":
        words += ["--dtype", dtype]
    deviations = REPORTS / f"{name}-deviations.json"
    if deviations.exists():
        words += ["--deviations", deviations.relative_to(DOCS.parent).as_posix()]
    return shlex.join(words)


def checks_page() -> str:
    """Every check by level, with the clauses that it checks."""
    checks, clauses = all_checks(), all_clauses()
    lines = [
        _HEAD + "# Conformance checks",
        "",
        f"All {len(checks)} checks of the [conformance kit](conformance.md), by level. Ids are public and are never "
        "renamed. `genai-iface conformance --list` prints the same list. The last column says which clauses of the "
        "[specification](spec/index.md) a check holds a runtime to; there, each clause names its checks. A failed "
        "[core](spec/capabilities.md#core-checks) check cannot be listed as a deviation.",
    ]
    for level, subject in LEVELS.items():
        lines += [
            "",
            f"## Level {level}: {subject}",
            "",
            "| check | what must hold | needs | profiles | core | clauses |",
            "|---|---|---|---|---|---|",
        ]
        for item in checks:
            if item.level == level:
                needs = ", ".join(f"`{name}`" for name in sorted(item.requires))
                links = ", ".join(clause_link(name, clauses) for name in item.spec)
                lines.append(
                    f"| [`{item.id}`](#{item.id}){{ #{item.id} }} | {item.title} | {needs} | "
                    f"{', '.join(sorted(item.profiles))} | {'core' if item.core else ''} | {links} |"
                )
    return "\n".join(lines) + "\n"


def mutants_page() -> str:
    """What each mutant does wrong, and how its check noticed."""
    from tests.conformance.loops.every import EVERY_MUTANT  # noqa: PLC0415 - the review meets it after this step

    by_id = {item.id: item for item in all_checks()}
    levels = [sum(int(mutant.check[1]) == level for mutant in EVERY_MUTANT) for level in LEVELS]
    shares = ", ".join(f"{number} at level {level}" for level, number in enumerate(levels) if number)
    lines = [
        _HEAD + "# Mutants",
        "",
        f"The kit is tested by {len(EVERY_MUTANT)} runtimes with one bug each: {shares}. Each must fail at least the "
        "check that stands beside it, whatever the seed of the run; the runtime without bugs passes all. A mutant that "
        "no check kills would be a missing check. They stand in `tests/conformance`, `tests/conformance/loops`, "
        "`tests/states` and `tests/walk`.",
        "",
        "| mutant | bug | killed by | with |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(mutant_row(mutant, by_id) for mutant in EVERY_MUTANT)]) + "\n"


def mutant_row(mutant: Mutant, by_id: Mapping[str, Check]) -> str:
    """A mutant's line of the table; its check is run."""
    context = Context(mutant.make(), seed=1)
    # The table shows that a walk fails, not its shortest program.
    with mock.patch.object(_search, "_SECONDS_TO_SHRINK", 0.0):
        outcome = run_check(by_id[mutant.check], context)
    context.close()
    finding = _finding(outcome) if outcome.status == "failed" else "**not killed**"
    return f"| {mutant.name} | {mutant.bug} | `{mutant.check}` | {finding} |"


def matrix_page() -> str:
    """Levels x backends x dtypes, from the reports."""
    lines = [
        _HEAD + "# Conformance results",
        "",
        "Every runtime of this repository, in every dtype that it declares. Written from the reports by "
        "`python -m tools.conformance_pages`; `--run all` runs the kit first.",
        "",
        "| runtime | dtype | " + " | ".join(f"{level} {subject}" for level, subject in LEVELS.items()) + " | report |",
        "|---|---|" + "---|" * len(LEVELS) + "---|",
    ]
    notes: list[str] = []
    for name in ADAPTERS:
        for dtype in DTYPES:
            path = REPORTS / f"{name}-{dtype}" / "report.json"
            if not path.exists():
                continue
            data = json.loads(path.read_text(encoding="utf-8"))
            cells = {item["level"]: _level_cell(item) for item in data["levels"]}
            row = " | ".join(cells.get(level, "not run") for level in LEVELS)
            folder = f"conformance/{name}-{dtype}"
            backend = data["backend"]
            lines.append(
                f"| {name}: {backend['runtime']} {backend['runtime_version']} | {dtype} | {row} | "
                f"[page]({folder}/report.md), [HTML]({folder}/report.html), [JSON]({folder}/report.json) |"
            )
            held = {item["id"] for item in data["checks"]}
            newer = sum(item.id not in held for item in all_checks() if data["profile"] in item.profiles)
            since = f" ({newer} checks of the kit are newer than this report)" if newer else ""
            notes += [f"- {claim_in_words(data)}: `{command(name, dtype)}`{since}"]
            notes += [
                f"    - `{item['id']}`: {item['message'].partition(' [')[0]}"  # the exception is in the report
                for item in data["checks"]
                if item["status"] in ("failed", "deviation")
            ]
    lines += [
        "",
        'A cell says how many checks passed of those that apply, and the verdict where it is another than "conforms".',
    ]
    lines += ["", "## Verdicts and deviations", "", "Reproductions: [deviations](deviations.md).", "", *notes]
    return "\n".join(lines) + "\n"


def scoreboard_page() -> str:
    """Every submission under docs/reports/conformance/."""
    folders = sorted(path.parent for path in REPORTS.glob("*/report.json"))
    lines = [
        # The table needs the room of the list of headings, of which there are none.
        "---\nhide:\n  - toc\n---\n\n" + _HEAD + "# Scoreboard",
        "",
        "Every submission in `docs/reports/conformance/`: a runtime, what it lets one see (its profile), an element "
        "type, and what it reaches. ✓ conforms, △ with known deviations, ✗ does not reach, ○ not shown. Where "
        "something is known or failed, point at the words or tap them: the first such check, its clause and its "
        "finding. How to [submit](../conformance.md#submissions).",
        "",
        scoreboard(folders),
    ]
    return "\n".join(lines) + "\n"


def _level_cell(level: dict[str, Any]) -> str:
    counts = level["counts"]
    applicable = sum(counts.values()) - counts["not_applicable"]
    if not applicable:
        return "not shown"
    text = f"{counts['passed']}/{applicable}"
    if counts["deviation"]:
        text += f", {counts['deviation']} known"
    # Known deviations are counted already.
    fine = level["verdict"] in ("conforms", "known_deviations")
    return text if fine else f"{text}, **{level['verdict'].replace('_', ' ')}**"


def _finding(outcome: Outcome) -> str:
    numbers = {name: value for name, value in outcome.numbers.items() if name in ("max_error", "expected", "got")}
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
    message = outcome.message.partition("\n")[0]
    text = message if len(message) < 90 else message[:87] + "..."
    return (f"{text} ({shown})" if shown and len(shown) < 120 else text).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
