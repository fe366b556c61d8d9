# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Walks all of AutoModelForCausalLM and writes docs/reports/families.md and .json.

    python -m tools.sweep_decoders --work DIR                what DIR has no row of yet
    python -m tools.sweep_decoders --work DIR --failed       what has no verified row, anew
    python -m tools.sweep_decoders --work DIR --only falcon  one model type, anew; may be repeated
    python -m tools.sweep_decoders --work DIR --write        the report from the rows that there are

Checkpoints are tiny and random; nothing is downloaded. Each model type runs in a process of its own with a limit of
time and memory, so that a crash is a row of the report. A type takes 10 to 40 s of processor time; --jobs 2 keeps two
cores busy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from tools.sweep_decoders.page import write_report
from tools.sweep_decoders.runner import Limits, run_cases
from tools.sweep_decoders.store import read_rows

_VERSIONS = ("genai-iface", "torch", "transformers", "onnx", "onnxscript", "onnx-ir", "mobius-onnx", "onnxruntime")
_REPORTS = Path(__file__).parents[2] / "docs" / "reports"


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sweep_decoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the rows, and for what is being built")
    parser.add_argument("--only", action="append", default=[], metavar="TYPE", help="these anew; may be repeated")
    parser.add_argument("--failed", action="store_true", help="anew what has no verified row")
    parser.add_argument("--float32", action="store_true", help="single precision only")
    parser.add_argument("--seconds", type=int, default=240, metavar="N", help="limit of one type (default: 240)")
    parser.add_argument("--gigabytes", type=int, default=8, metavar="N", help="memory of one type (default: 8)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="types at a time (default: 1)")
    parser.add_argument("--write", action="store_true", help="run nothing, write the report")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows_file = arguments.work / "rows.jsonl"
    from tools.sweep_decoders.tiny import cases  # noqa: PLC0415 - loads torch

    every, done = cases(), read_rows(rows_file)
    if arguments.write:
        write_report(done.values(), _REPORTS, missing=[name for name in every if name not in done])
        return 0
    unknown = sorted(set(arguments.only) - set(every))
    if unknown:
        parser.error(f"Transformers has no {', '.join(unknown)}")
    names: Iterable[str] = arguments.only or [name for name in every if name not in done]
    if arguments.failed:
        names = [name for name, row in done.items() if not row["float32"]["verified"]]
    run_cases(
        list(names),
        rows_file,
        code=_code(),
        versions={name: version(name) for name in _VERSIONS},
        limits=Limits(arguments.seconds, arguments.gigabytes),
        half_precision=not arguments.float32,
        jobs=arguments.jobs,
    )
    print(json.dumps(_counts(read_rows(rows_file).values())))
    return 0


def _counts(rows: Iterable[dict[str, object]]) -> dict[str, str]:
    """Verified of all, by kind."""
    counted: dict[str, list[bool]] = {}
    for row in rows:
        single = row["float32"]
        if isinstance(single, dict):
            counted.setdefault(str(row["kind"]), []).append(bool(single["verified"]))
    return {kind: f"{sum(verified)} of {len(verified)}" for kind, verified in sorted(counted.items())}


def _code() -> str:
    """The commit of the tree that runs, with a mark if files were changed since."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    raise SystemExit(main())
