# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A function in a process of its own, with limits of time and memory, so that a crash is an answer."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Limits", "LostError", "run_apart"]

_PAUSE = 0.02
_WAITS = 6
# A process that is copied need not load torch again; elsewhere than on Linux copies of processes are not safe.
_START = "fork" if sys.platform == "linux" else "spawn"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process.

    Attributes:
        seconds: Of the processor; of the clock six times as many, for what waits and never ends.
        gigabytes: Of memory.
        one_core: Whether it stays on one core, where the system can do that: threads of tiny graphs only wait.
    """

    seconds: int = 240
    gigabytes: int = 16
    one_core: bool = False


class LostError(Exception):
    """A process gave no answer; the message says how it ended."""


def run_apart(
    function: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...], *, limits: Limits, log: Path
) -> dict[str, Any]:
    """Calls a function in another process.

    Args:
        function: Of a module, so that the process finds it.
        arguments: What it is given.
        limits: Of the process.
        log: Where what it prints goes; its answer lies beside it until it is read.

    Returns:
        What the function returned.

    Raises:
        LostError: It raised, crashed, or passed a limit.
    """
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    context: Any = multiprocessing.get_context(_START)
    process = context.Process(target=_work, args=(function, arguments, limits, log, answer))
    process.start()
    deadline = time.monotonic() + _WAITS * limits.seconds
    while process.is_alive() and time.monotonic() < deadline:
        process.join(_PAUSE)
    if process.is_alive():
        process.kill()
        process.join()
        raise LostError(f"not done after {_WAITS * limits.seconds} s")
    if process.exitcode:
        raise LostError(_ended(process.exitcode))
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink()
    if "raised" in found:
        raise LostError(found["raised"])
    return found


def _work(
    function: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...], limits: Limits, log: Path, answer: Path
) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(target, number)
    # What stands in their place may lead elsewhere, in a notebook for one.
    sys.stdout = sys.stderr = os.fdopen(target, "w", encoding="utf-8")
    _limit(limits)
    try:
        found: Mapping[str, Any] = function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever a producer or a runtime raises is the answer
        traceback.print_exc()
        found = {"raised": f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"}
    answer.write_text(json.dumps(found), encoding="utf-8")
    # Runtimes' threads and destructors may hang or crash at the end, which says nothing of what was computed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _limit(limits: Limits) -> None:
    if sys.platform == "win32":
        return
    import resource

    if limits.one_core and sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
    spent = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + limits.seconds,) * 2)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.gigabytes << 30,) * 2)


def _ended(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with status {code}"
