# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Compares stacks on one checkpoint, in one run, with equal threads.

    python -m benchmarks.compare ort genai --weights int4 --context 1024 --threads 2 --work-dir /tmp/bench

The sides take turns, a block each, so that a change of the machine's speed meets all of them.
Prints one JSON line: median seconds of each side, and how much faster the first one is than each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import get_args


def main() -> None:
    """Runs one comparison."""
    from benchmarks.checkpoint import SIZES, Weights
    from benchmarks.sides import SIDES, Setting

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="+", choices=sorted(SIDES), metavar="SIDE", help=", ".join(sorted(SIDES)))
    parser.add_argument("--measure", choices=("decode", "prefill"), default="decode")
    parser.add_argument("--size", choices=sorted(SIZES), default="135m")
    parser.add_argument("--weights", choices=get_args(Weights), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=128, help="tokens before decoding, or of the prompt")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a decode block")
    parser.add_argument("--blocks", type=int, default=7, help="blocks of each side")
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
    measures = {name: getattr(SIDES[name](setting), arguments.measure) for name in arguments.sides}
    for measure in measures.values():
        measure()
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(arguments.blocks):
        for name, measure in measures.items():
            seconds[name].append(measure())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    first, *others = median
    tokens = 1 if arguments.measure == "decode" else arguments.context
    line = {
        "benchmark": arguments.measure,
        "size": arguments.size,
        "weights": arguments.weights,
        "threads": arguments.threads,
        "context": arguments.context,
        "tokens_per_second": {name: round(tokens / value, 1) for name, value in median.items()},
        "spread": {name: round(max(values) / min(values), 2) for name, values in seconds.items()},
        f"speed_of_{first}_over": {name: round(median[name] / median[first], 3) for name in others},
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
