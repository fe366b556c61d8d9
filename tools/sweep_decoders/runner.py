# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs model types, each in a process of its own, with limits of time and memory."""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.sweep_decoders.store import append_row

__all__ = ["Limits", "run_cases"]

_PAUSE = 0.05
_WAITS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one model type.

    Attributes:
        seconds: Of the processor; of the clock ten times as many, for what waits and never ends.
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
    jobs: int = 1,
) -> None:
    """Runs the types, so many at a time, and appends a row for each, whatever becomes of it."""
    # Every process would load torch, and what its exporter loads when it first runs, anew otherwise.
    importlib.import_module("tools.sweep_decoders.warm").warm_up()
    settings = {"code": code, "versions": dict(versions), "half_precision": half_precision}
    waiting, running = list(reversed(names)), list[_Run]()
    with tempfile.TemporaryDirectory(dir=rows_file.parent) as scratch:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop()
                running.append(_Run.begun(name, rows_file, Path(scratch) / f"case-{name}", settings, limits))
            time.sleep(_PAUSE)
            for run in [each for each in running if each.is_over()]:
                running.remove(run)
                if problem := run.ended():
                    append_row(rows_file, _lost(run.name, problem, limits, settings))
                left = len(waiting) + len(running)
                print(f"[{len(names) - left}/{len(names)}] {problem and f'{run.name}: {problem}'}".rstrip(), flush=True)


@dataclass(frozen=True, slots=True)
class _Run:
    """A model type in a process of its own."""

    name: str
    process: Any
    work: Path
    seconds: int
    deadline: float

    @staticmethod
    def begun(name: str, rows_file: Path, work: Path, settings: Mapping[str, Any], limits: Limits) -> _Run:
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_one, args=(name, rows_file, work, settings, limits))
        process.start()
        return _Run(name, process, work, limits.seconds, time.monotonic() + _WAITS * limits.seconds)

    def is_over(self) -> bool:
        return not self.process.is_alive() or time.monotonic() > self.deadline

    def ended(self) -> str:
        """What went wrong; empty if nothing did, for then the process has written its row."""
        problem = ""
        if self.process.is_alive():
            self.process.kill()
            problem = f"not done after {_WAITS * self.seconds} s"
        self.process.join()
        shutil.rmtree(self.work, ignore_errors=True)  # what a process that was ended has left
        return problem or (_ended(self.process.exitcode) if self.process.exitcode else "")


def _one(name: str, rows_file: Path, work: Path, settings: Mapping[str, Any], limits: Limits) -> None:
    from tools.sweep_decoders.case import sweep_case  # noqa: PLC0415 - loads torch, and only here
    from tools.sweep_decoders.tiny import cases  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + limits.seconds,) * 2)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.gigabytes << 30,) * 2)
    work.mkdir()
    outcome = sweep_case(name, cases()[name], work, **settings)
    append_row(rows_file, outcome.as_dict())
    print(outcome, flush=True)


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
        "int8": None,
        "seconds": limits.seconds,
        "code": settings["code"],
        "versions": settings["versions"],
    }
