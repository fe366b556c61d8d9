# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Compares stacks on one checkpoint, in one run, with equal threads.

    python -m benchmarks.compare ort genai --weights int4 --context 1024 --threads 2 --work-dir /tmp/bench

Every side lives in a process of its own, so that no thread pool spins beside another's work. They take
turns, a block each, so that a change of the machine's speed meets all of them. Which side starts first
decides where its memory lies and was seen to be worth several percent, so the whole is done twice, the
second time in the opposite order. Prints one JSON line: median tokens per second of each side, and how
much faster the first one is than each other, as the geometric mean of both orders.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from multiprocessing.connection import Connection
from pathlib import Path
from typing import get_args

from benchmarks.checkpoint import NAMES, Weights
from benchmarks.sides import SIDES, Setting

__all__ = ["ratio", "take_turns"]


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="+", choices=sorted(SIDES), metavar="SIDE", help=", ".join(sorted(SIDES)))
    parser.add_argument("--measure", choices=("decode", "prefill"), default="decode")
    parser.add_argument("--size", choices=NAMES, default="135m", help="a shape, or a real model")
    parser.add_argument("--weights", choices=get_args(Weights), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=128, help="tokens before decoding, or of the prompt")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a decode block")
    parser.add_argument("--blocks", type=int, default=9, help="blocks of each side")
    parser.add_argument("--work-dir", type=Path, required=True, help="where models are made and kept")
    arguments = parser.parse_args()
    # The thread pools of NumPy and torch read these when they are loaded.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)

    setting = Setting(
        size=arguments.size,
        weights=arguments.weights,
        threads=arguments.threads,
        context=arguments.context,
        tokens=arguments.tokens,
        work_dir=arguments.work_dir,
    )
    orders = [arguments.sides, arguments.sides[::-1]] if len(arguments.sides) > 1 else [arguments.sides]
    runs = [take_turns(order, setting, arguments.measure, arguments.blocks) for order in orders]
    seconds = {name: [value for run in runs for value in run[name]] for name in arguments.sides}
    first, *others = arguments.sides
    ratios = {name: [ratio(run[first], run[name]) for run in runs] for name in others}
    tokens = 1 if arguments.measure == "decode" else arguments.context
    line = {
        "benchmark": arguments.measure,
        "size": arguments.size,
        "weights": arguments.weights,
        "threads": arguments.threads,
        "context": arguments.context,
        "tokens_per_second": {name: round(tokens / statistics.median(values), 1) for name, values in seconds.items()},
        "spread": {name: round(max(values) / min(values), 2) for name, values in seconds.items()},
        f"speed_of_{first}_over": {
            name: round(statistics.geometric_mean(values), 3) for name, values in ratios.items()
        },
        "by_order": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
    }
    print(json.dumps(line), flush=True)


def ratio(ours: list[float], theirs: list[float]) -> float:
    """How much faster we were, pair by pair, because both of a pair met the same machine."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def take_turns(sides: list[str], setting: Setting, measure: str, blocks: int) -> dict[str, list[float]]:
    """Seconds of every block of every side; the sides start in this order."""
    context = multiprocessing.get_context("spawn")
    workers, processes = {}, []
    for name in sides:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, name, setting, measure), daemon=True)
        process.start()
        theirs.close()
        # One after the other, so that they do not load and warm up against each other.
        _ask(ours)
        workers[name] = ours
        processes.append(process)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(blocks):
        for name, connection in workers.items():
            seconds[name].append(_ask(connection))
    for connection in workers.values():
        connection.send(False)
    for process in processes:
        process.join()
    return seconds


def _ask(connection: Connection) -> float:
    connection.send(True)
    try:
        return float(connection.recv())
    except EOFError:
        raise SystemExit("A side ended early; its message stands above.") from None


def _serve(connection: Connection, name: str, setting: Setting, measure: str) -> None:
    """Loads a side and runs a block whenever it is asked."""
    block = getattr(SIDES[name](setting), measure)
    while connection.recv():
        block()  # Wakes the threads up and fetches the weights into reach after the other sides' turn.
        connection.send(block())


if __name__ == "__main__":
    main()
