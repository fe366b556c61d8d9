# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Workers, the lines that they write, and what is left of a worker that dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Run"]

_HERE = Path(__file__).parents[2]
_BACKENDS = ("numpy", "ort", "transformers")


class Run:
    """Cases that have run and cases to come.

    Args:
        state: A folder for the workers' lines, one file for each worker. What is there counts as done.
        workers: Processes at once.
        settings: Seed, seconds for a case, gigabytes of address space for a process.
    """

    def __init__(self, state: Path, workers: int, settings: tuple[int, float, float]) -> None:
        self._state, self._workers, self._settings = state, workers, settings

    def lines(self) -> list[dict[str, Any]]:
        """The line of every case that ran, in the order in which they were written."""
        files = sorted(self._state.glob("cases.*"), key=lambda file: int(file.suffix[1:]))
        return [line for file in files for line in _read(file) if "case" in line]

    def go_through(self, numbers: list[int], seconds: float | None) -> None:
        """Runs cases until they are done, the time is over, or this process is told to end."""
        deadline = None if seconds is None else time.monotonic() + seconds
        workers = [
            _Worker(self._state, number, numbers[number :: self._workers], self._settings)
            for number in range(self._workers)
        ]
        with _told_to_end() as told:
            # Each is asked: one that died is replaced there.
            while sum(worker.goes_on() for worker in workers):
                if told or (deadline is not None and time.monotonic() > deadline):
                    for worker in workers:
                        worker.stop()
                    return
                time.sleep(0.1)


class _Worker:
    """A process that works through a list, and its successors."""

    def __init__(self, state: Path, number: int, cases: list[int], settings: tuple[int, float, float]) -> None:
        self._results, self._todo = state / f"cases.{number}", state / f"todo.{number}"
        self._cases, self._settings = cases, settings
        self._process = self._start(cases)

    def goes_on(self) -> bool:
        """Whether it works still; a process that died is replaced by one for the cases behind."""
        if self._process is None or self._process.poll() is None:
            return self._process is not None
        code, self._process = self._process.returncode, None
        if code == 0:
            return False
        begun = next((int(line["begin"]) for line in reversed(_read(self._results)) if "begin" in line), None)
        if begun not in self._cases:
            raise RuntimeError(f"A worker ended with {code} before its first case")
        self._append(_crash(begun, code))
        self._cases = self._cases[self._cases.index(begun) + 1 :]
        self._process = self._start(self._cases)
        return self._process is not None

    def stop(self) -> None:
        """Ends it; the case that it is at has no line."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _start(self, cases: list[int]) -> subprocess.Popen[bytes] | None:
        if not cases:
            return None
        if self._results.exists():
            # A line may have been cut short by the end of its process.
            self._append({})
        self._todo.write_text(json.dumps(cases), encoding="utf-8")
        words = map(str, (self._todo, self._results, *self._settings))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [_HERE, *(_HERE / "backends" / name for name in _BACKENDS)])),
            "ORT_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
        }
        command = [sys.executable, "-m", "tools.robustness.worker", *words]
        return subprocess.Popen(command, cwd=_HERE, env=environment, stderr=subprocess.DEVNULL)

    def _append(self, line: dict[str, Any]) -> None:
        with open(self._results, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line) + "\n")


@contextlib.contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """Collects signals to end, so that what is done is reported first."""
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _crash(number: int, code: int) -> dict[str, Any]:
    kind = f"signal {-code}" if code < 0 else f"exit code {code}"
    escape = {"stage": "process", "kind": kind, "place": "", "message": "the process ended"}
    numbers = {"seconds": 0.0, "cpu": 0.0, "grown_mb": 0.0, "peak_mb": 0.0}
    return {"case": number, "what": "", "reached": "crashed", **numbers, "escapes": [escape]}
