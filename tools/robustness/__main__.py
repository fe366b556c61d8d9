# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs changed model folders through open, load and generate, and reports what came out.

    python -m tools.robustness --cases 100000 --write          everything, and docs/reports/robustness.md
    python -m tools.robustness --cases 500 --seed 7            a look at other cases; exit code 1 if something escaped
    python -m tools.robustness --cases 1 --first 4711          one case again
    python -m tools.robustness --cases 100000 --state DIR      kept as it goes; the same command goes on after a cut
    ... --state DIR --again --write                            those that found something once more, after a repair

A case is decided by the seed and its number alone. Cases run in worker processes with a limit of time for each case
and of memory for the process; a process that dies is started again behind the case that ended it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.robustness.page import page
from tools.robustness.run import Run
from tools.robustness.summary import needs_look, summary

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
    parser.add_argument("--state", type=Path, help="folder that keeps what is done (default: nothing is kept)")
    parser.add_argument("--again", action="store_true", help="run those cases in --state again that found something")
    parser.add_argument("--write", action="store_true", help="write docs/reports/robustness.md and .json")
    arguments = parser.parse_args(argv)
    if arguments.again and arguments.state is None:
        parser.error("--again needs the --state of the run")
    with tempfile.TemporaryDirectory(prefix="robustness-") as temporary:
        state = arguments.state or Path(temporary)
        state.mkdir(parents=True, exist_ok=True)
        run = Run(state, arguments.workers, (arguments.seed, arguments.seconds, arguments.gigabytes))
        numbers = list(range(arguments.first, arguments.first + arguments.cases))
        last = {line["case"]: line for line in run.lines()}
        if arguments.again:
            numbers = [number for number in numbers if number in last and needs_look(last[number])]
        else:
            numbers = [number for number in numbers if number not in last]
        run.go_through(numbers, None if arguments.minutes is None else 60 * arguments.minutes)
        result = summary(run.lines(), seed=arguments.seed, workers=arguments.workers)
    if arguments.write:
        data: dict[str, Any] = {"versions": {name: version(name) for name in _VERSIONS}, **result}
        data["limits"] = {"seconds": arguments.seconds, "gigabytes": arguments.gigabytes}
        (_REPORTS / "robustness.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        (_REPORTS / "robustness.md").write_text(page(data), encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
