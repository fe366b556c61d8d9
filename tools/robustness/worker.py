# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A process that runs cases one after the other, within limits, and writes a line for each.

    python -m tools.robustness.worker TODO RESULTS SEED SECONDS GIGABYTES

TODO is a JSON list of numbers. Its parent starts it again after a crash; the last line then names the case that
brought it down.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from tools.robustness.case import Escape, TooLongError
from tools.robustness.kinds import Kinds
from tools.robustness.templates import forked_template_processes

# Cases write some 20 small files each: memory is faster than a disk.
_MEMORY_DISK = Path("/dev/shm")
# Times the limit of a case, on the clock, until a process that does not come back to Python is ended.
_PATIENCE = 6


def main() -> int:
    """Runs the cases that the arguments name."""
    todo, results, seed, seconds, gigabytes = sys.argv[1:]
    numbers: list[int] = json.loads(Path(todo).read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_AS, (int(float(gigabytes) * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_long)
    signal.signal(signal.SIGTERM, _ended)
    # Native code writes what it thinks of a broken model to standard error.
    with contextlib.redirect_stderr(open(os.devnull, "w", encoding="utf-8")), forked_template_processes():
        work = Path(tempfile.mkdtemp(prefix="robustness-", dir=_MEMORY_DISK if _MEMORY_DISK.is_dir() else None))
        try:
            kinds = Kinds(work)
            with open(results, "a", encoding="utf-8", buffering=1) as lines:
                for done, number in enumerate(numbers):
                    kinds.prepare(number)
                    if done % 1000 == 100:
                        # What is loaded by now stays; collections need not go through it.
                        gc.collect()
                        gc.freeze()
                    lines.write(json.dumps({"begin": number}) + "\n")
                    lines.write(json.dumps(_one(kinds, int(seed), number, float(seconds))) + "\n")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return 0


def _one(kinds: Kinds, seed: int, number: int, limit: float) -> dict[str, object]:
    # Code that never comes back to Python is ended with the whole process.
    faulthandler.dump_traceback_later(_PATIENCE * limit, exit=True, file=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, started_cpu = time.perf_counter(), time.process_time()
    what, reached = "", "too long"
    escapes: list[Escape] = []
    try:
        # Processor time: others may fill the machine.
        signal.setitimer(signal.ITIMER_PROF, limit)
        what, reached, escapes = kinds.run(seed, number)
    except TooLongError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "case": number,
        "what": what[:300],
        "reached": reached,
        "seconds": round(time.perf_counter() - started, 4),
        "cpu": round(time.process_time() - started_cpu, 4),
        "grown_mb": round((peak - before) / 1024, 1),
        "peak_mb": round(peak / 1024, 1),
        "escapes": [asdict(escape) for escape in escapes],
    }


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def _ended(number: int, frame: FrameType | None) -> None:
    # By way of the blocks that clean up.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
