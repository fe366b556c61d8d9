# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A process that runs cases one after the other, within limits, and writes a line for each.

    python -m tools.robustness.worker WORK SEED FIRST STOP STRIDE SECONDS GIGABYTES RESULTS

Its parent starts it again after a crash; the last line then names the case that brought it down.
"""

from __future__ import annotations

import contextlib
import faulthandler
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

from tools.robustness.case import Escape, TooLongError, run_case
from tools.robustness.sources import write_sources


def main() -> int:
    """Runs the cases that the arguments name."""
    root, seed, first, stop, stride, seconds, gigabytes, results = sys.argv[1:]
    limit = float(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (int(float(gigabytes) * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    # Native code writes what it thinks of a broken model to standard error.
    with contextlib.redirect_stderr(open(os.devnull, "w", encoding="utf-8")):
        work = Path(tempfile.mkdtemp(dir=root))
        try:
            sources = write_sources(work / "sources")
            with open(results, "a", encoding="utf-8", buffering=1) as lines:
                for number in range(int(first), int(stop), int(stride)):
                    lines.write(json.dumps({"begin": number}) + "\n")
                    lines.write(json.dumps(_one(sources, work, int(seed), number, limit)) + "\n")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return 0


def _one(sources: dict[str, Path], work: Path, seed: int, number: int, limit: float) -> dict[str, object]:
    # Code that never comes back to Python is ended with the whole process.
    faulthandler.dump_traceback_later(2 * limit, exit=True, file=2)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    what, reached = "", "too long"
    escapes: list[Escape] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        what, reached, escapes = run_case(sources, work, seed, number)
    except TooLongError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "case": number,
        "what": what[:300],
        "reached": reached,
        "seconds": round(time.perf_counter() - started, 4),
        "grown_mb": round((peak - before) / 1024, 1),
        "peak_mb": round(peak / 1024, 1),
        "escapes": [asdict(escape) for escape in escapes],
    }


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


if __name__ == "__main__":
    raise SystemExit(main())
