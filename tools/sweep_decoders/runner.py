# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs model types one after another, each in a process of its own, with limits of time and memory."""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.sweep_decoders.store import append_row

__all__ = ["Limits", "run_cases"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one model type.

    Attributes:
        seconds: Of the clock.
        gigabytes: Of memory.
    """

    seconds: int
    gigabytes: int


def run_cases(
    names: Sequence[str],
    rows_file: Path,
    *,
    code: str,
    versions: Mapping[str, str],
    limits: Limits,
    half_precision: bool,
) -> None:
    """Runs the types and appends a row for each, whatever becomes of it."""
    # Every process would load torch anew otherwise, which takes longer than most builds.
    importlib.import_module("tools.sweep_decoders.case")
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(dir=rows_file.parent) as scratch:
        for index, name in enumerate(names):
            shutil.rmtree(Path(scratch) / "case", ignore_errors=True)  # what a process that was ended has left
            settings = {"code": code, "versions": dict(versions), "half_precision": half_precision}
            process = context.Process(target=_one, args=(name, rows_file, Path(scratch) / "case", settings, limits))
            process.start()
            process.join(limits.seconds)
            problem = ""
            if process.is_alive():
                process.kill()
                process.join()
                problem = f"not done after {limits.seconds} s"
            elif process.exitcode:
                problem = _ended(process.exitcode)
            if problem:
                append_row(rows_file, _lost(name, problem, limits, settings))
            print(f"[{index + 1}/{len(names)}] {problem and f'{name}: {problem}'}".rstrip(), flush=True)


def _one(name: str, rows_file: Path, work: Path, settings: Mapping[str, Any], limits: Limits) -> None:
    from tools.sweep_decoders.case import sweep_case  # noqa: PLC0415 - loads torch, and only here
    from tools.sweep_decoders.tiny import cases  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_DATA, (limits.gigabytes << 30,) * 2)
    work.mkdir()
    outcome = sweep_case(name, cases()[name], work, **settings)
    append_row(rows_file, outcome.as_dict())
    print(outcome, flush=True)
    sys.stdout.flush()


def _ended(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with status {code}"


def _lost(name: str, problem: str, limits: Limits, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a type whose process is gone."""
    return {
        "name": name,
        "model_type": name,
        "kind": "unknown",
        "network": "",
        "float32": {"verified": False, "problem": problem, "crashed": True},
        "float16": None,
        "seconds": limits.seconds,
        "code": settings["code"],
        "versions": settings["versions"],
    }
