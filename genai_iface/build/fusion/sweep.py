# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the exports of many families: several processes, each result on disk, a crash is a row and not the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from threading import Timer
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
    waiting = []
    for case in cases:
        result = stored(case, folder)
        if result is None:
            waiting.append(case)
        else:
            done(case, str(result["error"] or "ok"))
    while waiting:
        why = _run_process(waiting, folder, done)
        waiting = [case for case in waiting if stored(case, folder) is None]
        if waiting:
            _record(waiting[0], folder, why)
            done(waiting.pop(0), why)


def _run_process(cases: list[Case], folder: Path, done: Callable[[Case, str], None]) -> str:
    """Exports cases until they are done or the process is; returns how it ended."""
    command = [sys.executable, "-m", "genai_iface.build.fusion.export", str(folder), *[case.name for case in cases]]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603 - this interpreter and case names
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        limit = Timer(_SECONDS_PER_CASE * len(cases), process.kill)
        limit.start()
        try:
            by_name = {case.name: case for case in cases}
            for line in process.stdout or ():
                name, _, rest = line.rstrip("\n").partition("\t")
                if name in by_name:
                    done(by_name[name], rest.partition("\t")[2])
            process.wait()
        finally:
            limit.cancel()
            process.kill()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no message"])[-1]
    return f"the process ended with {process.returncode}: {last}"[:300]


def _record(case: Case, folder: Path, why: str) -> None:
    """A result for a case that took its process with it."""
    result = {"case": case.name, "fingerprint": fingerprint(case), "error": why, "expected": None, "seconds": 0.0}
    partial = folder / f"{case.name}.partial"
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    partial.rename(folder / f"{case.name}.json")
