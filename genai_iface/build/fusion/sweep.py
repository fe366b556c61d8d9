# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the exports of many families: several processes, each result on disk, a crash is a row and not the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

from genai_iface.build.fusion.cases import Case, fingerprint

__all__ = ["run_exports", "stored"]

# A tiny model exports in seconds; what takes longer than this hangs.
_SECONDS_PER_CASE = 240


def stored(case: Case, folder: Path) -> dict[str, Any] | None:
    """The result of an earlier run with the same versions and configuration, None if there is none."""
    path = folder / f"{case.name}.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if result["fingerprint"] == fingerprint(case) else None


def run_exports(
    cases: Sequence[Case], folder: Path, *, jobs: int = 1, done: Callable[[Case, str], None] = lambda *_: None
) -> None:
    """Exports every case that isn't stored yet.

    Args:
        cases: The cases, those of a family next to each other.
        folder: Where results are kept; it is made.
        jobs: How many processes run at a time.
        done: Called with each case that has a result, and what became of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = [list(group) for _, group in groupby(cases, key=lambda case: case.family)]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for finished in [pool.submit(_run_family, group, folder, done) for group in groups]:
            finished.result()


def _run_family(cases: list[Case], folder: Path, done: Callable[[Case, str], None]) -> None:
    """One process exports the cases of a family; if it dies, another goes on behind the case it died of."""
    while True:
        missing = [case for case in cases if stored(case, folder) is None]
        for case in cases:
            if case not in missing:
                done(case, str((stored(case, folder) or {}).get("error") or "ok"))
        cases = missing
        if not cases:
            return
        command = [sys.executable, "-m", "genai_iface.build.fusion.export", str(folder), *[one.name for one in cases]]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        try:
            run = subprocess.run(  # noqa: S603 - this interpreter and case names
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS_PER_CASE * len(cases),
                env=environment,
            )
            why = f"the process ended with {run.returncode}: {(run.stderr.strip().splitlines() or ['no message'])[-1]}"
        except subprocess.TimeoutExpired:
            why = "the export did not end"
        victim = next((case for case in cases if stored(case, folder) is None), None)
        if victim is not None:
            _record(victim, folder, why[:300])


def _record(case: Case, folder: Path, why: str) -> None:
    """A result for a case that took its process with it."""
    result = {"case": case.name, "fingerprint": fingerprint(case), "error": why, "expected": None, "seconds": 0.0}
    (folder / f"{case.name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
