# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Walks the families and writes docs/reports/equivalence.md and .json.

    python -m tools.equivalence --work DIR                what DIR has no row of yet
    python -m tools.equivalence --work DIR --only llama   of one family; may be repeated
    python -m tools.equivalence --work DIR --anew         everything, or what --only names, without what DIR has
    python -m tools.equivalence --work DIR --write        the report from the rows that there are

Checkpoints are tiny and random; nothing is downloaded. Each producer and each cell is a process of its own with a limit
of time and memory, so that a crash is a cell. onnxruntime-node is found below --node, where
npm install --ignore-scripts onnxruntime-node has put it; without it its column is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import shutil
import time
from importlib.metadata import version
from pathlib import Path

from genai_iface.build.matrix.apart import Limits
from genai_iface.build.matrix.producers import CONTROL, PRODUCERS, check_producers
from genai_iface.build.matrix.run import Row, read_rows, run_matrix
from genai_iface.build.matrix.runtimes import Runtime, as_runtime
from genai_iface.errors import GenAIError
from tools.equivalence.families import NAMES, write_checkpoint
from tools.equivalence.page import write_report

_ROOT = Path(__file__).parents[2]
_REPORTS = _ROOT / "docs" / "reports"
_VERSIONS = (
    "genai-iface",
    "torch",
    "transformers",
    "mobius-onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "openvino",
    "onnx",
    "onnxscript",
)
_PYTHON = (
    "numpy",
    "ort",
    "ort-genai",
    "openvino=examples.new_runtime.openvino_runtime:OpenVinoAdapter",
    "transformers",
)
# A run that is ended early then has every family, and not every producer.
_QUICK_FIRST = (
    ("mobius", "mobius static", "genai builder", "convert genai"),
    ("build export", "convert to concat", "convert to primitive"),
    ("transformers exporter", "convert exporter"),
)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.equivalence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for rows, checkpoints, graphs and logs")
    parser.add_argument("--only", action="append", default=[], metavar="FAMILY", help="only these; may be repeated")
    parser.add_argument("--anew", action="store_true", help="forget the rows that there are")
    parser.add_argument(
        "--producer",
        action="append",
        default=[],
        metavar="NAME",
        help="only these; may be repeated; the rest can follow",
    )
    parser.add_argument("--node", type=Path, metavar="DIR", help="a folder with node_modules/onnxruntime-node")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="families at a time (default: 1)")
    parser.add_argument("--write", action="store_true", help="run nothing, write the report")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if unknown := sorted(set(arguments.only) - set(NAMES)):
        parser.error(f"there is no family {', '.join(unknown)}; families: {', '.join(NAMES)}")
    if arguments.write:
        versions = json.loads((work / "versions.json").read_text(encoding="utf-8"))
        write_report(read_every(work), versions, _REPORTS)
        return 0
    producers = arguments.producer or list(PRODUCERS)
    check_producers(producers)
    runtimes = [as_runtime(text) for text in _PYTHON]
    if arguments.node is not None:
        runtimes.insert(2, _node(arguments.node, work))
    (work / "versions.json").write_text(json.dumps(_versions(arguments.node)), encoding="utf-8")
    names = arguments.only or list(NAMES)
    for name in names if arguments.anew else ():
        shutil.rmtree(work / name, ignore_errors=True)
    _walk(names, work, producers, runtimes, arguments.jobs)
    return 0


def read_every(work: Path) -> list[Row]:
    """All rows, families in their order and producers in theirs."""
    order = [CONTROL, *PRODUCERS]
    found = {key: row for name in NAMES for key, row in read_rows(work / name / "rows.jsonl").items()}
    return [found[name, producer] for name in NAMES for producer in order if (name, producer) in found]


def _walk(names: list[str], work: Path, producers: list[str], runtimes: list[Runtime], jobs: int) -> None:
    """All families by quick producers first, then by those that trace; each in a process of its own."""
    import torch  # noqa: PLC0415 - every process would load it anew otherwise

    torch.set_num_threads(1)  # a process with threads cannot be copied
    rest = [name for name in producers if not any(name in stage for stage in _QUICK_FIRST)]
    stages = [[name for name in producers if name in stage] for stage in _QUICK_FIRST] + [rest]
    is_warm = False
    waiting = [(name, stage) for stage in stages if stage for name in names]
    context = multiprocessing.get_context("fork")
    running: dict[str, multiprocessing.process.BaseProcess] = {}
    while waiting or running:
        running = {name: process for name, process in running.items() if process.is_alive()}
        free = next((each for each in waiting if each[0] not in running), None)
        if free is not None and len(running) < jobs:
            waiting.remove(free)
            if not is_warm and free[1] != stages[0]:
                importlib.import_module("tools.sweep_decoders.warm").warm_up()
                is_warm = True
            running[free[0]] = context.Process(target=_family, args=(free[0], work, free[1], runtimes))
            running[free[0]].start()
        else:
            time.sleep(0.1)


def _family(name: str, work: Path, producers: list[str], runtimes: list[Runtime]) -> None:
    room = work / name
    room.mkdir(exist_ok=True)
    write_checkpoint(name, room / "checkpoint")
    try:
        for row in run_matrix(
            name, room / "checkpoint", room, producers=producers, runtimes=runtimes, limits=Limits(one_core=True)
        ):
            verdicts = ", ".join(f"{cell.runtime} {cell.verdict}" for cell in row.cells)
            print(f"{name}: {row.producer}: {row.problem or verdicts} ({row.seconds:.0f} s)", flush=True)
    except GenAIError as error:
        print(f"{name}: {error}", flush=True)


def _node(packages: Path, work: Path) -> Runtime:
    """The harness of examples/ beside the packages, which are found from where a program lies."""
    room = work / "node"
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(_ROOT / "examples" / "harness_javascript", room, ignore=shutil.ignore_patterns("node_modules"))
    (room / "node_modules").symlink_to((packages / "node_modules").resolve())
    return Runtime("onnxruntime-node", f"command:node {room / 'harness.mjs'} onnxruntime-node")


def _versions(packages: Path | None) -> dict[str, str]:
    found = {name: version(name) for name in _VERSIONS}
    if packages is not None:
        said = packages / "node_modules" / "onnxruntime-node" / "package.json"
        found["onnxruntime-node"] = json.loads(said.read_text(encoding="utf-8"))["version"]
    return found


if __name__ == "__main__":
    raise SystemExit(main())
