# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs changed model folders through open, load and generate, and reports what came out.

    python -m tools.robustness --cases 100000 --write          everything, and docs/reports/robustness.md
    python -m tools.robustness --cases 500 --seed 7            a look at other cases; exit code 1 if something escaped
    python -m tools.robustness --cases 1 --first 4711          one case again

A case is decided by the seed and its number alone. Cases run in worker processes with a limit of time for each case
and of memory for the process; a process that dies is started again behind the case that ended it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.robustness.page import page, summary

_REPORTS = Path(__file__).parents[2] / "docs" / "reports"
_VERSIONS = ("genai-iface", "numpy", "onnx", "onnx-ir", "onnxruntime", "tokenizers", "jinja2")


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 if nothing escaped, 1 otherwise.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.robustness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--seed", type=int, default=1, help="of all cases (default: 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes at once (default: 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of one case (default: 20)")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="address space of a process (default: 8)")
    parser.add_argument("--minutes", type=float, help="stop after so long with the cases that are done")
    parser.add_argument("--write", action="store_true", help="write docs/reports/robustness.md and .json")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="robustness-") as root:
        found = _run(arguments, Path(root))
    result = summary(found, seed=arguments.seed, wall_seconds=time.perf_counter() - started, workers=arguments.workers)
    if arguments.write:
        data: dict[str, Any] = {"versions": {name: version(name) for name in _VERSIONS}, **result}
        data["limits"] = {"seconds": arguments.seconds, "gigabytes": arguments.gigabytes}
        (_REPORTS / "robustness.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        (_REPORTS / "robustness.md").write_text(page(data), encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 1 if result["findings"] else 0


def _run(arguments: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """The line of every case that ran; a case that ended its process gets one of ours."""
    stop = arguments.first + arguments.cases
    deadline = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    files = [root / f"results.{worker}" for worker in range(arguments.workers)]
    nexts = [arguments.first + worker for worker in range(arguments.workers)]
    processes: dict[int, subprocess.Popen[bytes]] = {}
    crashes: list[dict[str, Any]] = []
    while processes or any(number < stop for number in nexts):
        for worker, number in enumerate(nexts):
            if worker not in processes and number < stop:
                processes[worker] = _start(arguments, root, files[worker], number, stop)
        time.sleep(0.2)
        late = deadline is not None and time.monotonic() > deadline
        for worker, process in list(processes.items()):
            if late:
                process.terminate()
                process.wait()
            if process.poll() is None:
                continue
            del processes[worker]
            begun = _begun(files[worker])
            nexts[worker] = stop if late or process.returncode == 0 or begun is None else begun + arguments.workers
            if not late and process.returncode != 0:
                if begun is None:
                    raise RuntimeError(f"A worker ended with {process.returncode} before its first case")
                crashes.append(_crash(begun, process.returncode))
    return [*(line for file in files for line in _results(file)), *crashes]


def _start(arguments: argparse.Namespace, root: Path, results: Path, number: int, stop: int) -> subprocess.Popen[bytes]:
    numbers = (arguments.seed, number, stop, arguments.workers, arguments.seconds, arguments.gigabytes)
    command = [sys.executable, "-m", "tools.robustness.worker", str(root), *map(str, numbers), str(results)]
    here = Path(__file__).parents[2]
    paths = [here, *(here / "backends" / name for name in ("numpy", "ort", "transformers"))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.DEVNULL)


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    # The last line may be cut short by the end of its process.
    whole = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole]


def _results(file: Path) -> list[dict[str, Any]]:
    return [line for line in _lines(file) if "case" in line]


def _begun(file: Path) -> int | None:
    """The case that was begun last."""
    return next((int(line["begin"]) for line in reversed(_lines(file)) if "begin" in line), None)


def _crash(number: int, code: int) -> dict[str, Any]:
    kind = f"signal {-code}" if code < 0 else f"exit code {code}"
    escape = {"stage": "process", "kind": kind, "place": "", "message": "the process ended"}
    return {"case": number, "what": "", "reached": "crashed", "seconds": 0.0, "grown_mb": 0.0, "peak_mb": 0.0} | {
        "escapes": [escape]
    }


if __name__ == "__main__":
    raise SystemExit(main())
