# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What running a prefix once is worth: the time to the first token of chats that share their system prompt.

    python -m benchmarks.prefix_reuse --work-dir /tmp/bench --threads 2

Chats come all at once, with and without reuse in turn; then one after the other. One JSON line per round, then one with
the ratios, which ``--report`` writes too: of seconds, and of the seconds that processors have computed for this
process, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoint import NAMES, build_standard, make_checkpoint
from genai_iface import TextGenerationPipeline
from genai_iface.generation.scheduling.request import ScheduledRequest

TARGET = 5.0
WAYS = ("at_once", "one_by_one")
_CLOCKS = ("seconds", "processor_seconds")


def main() -> None:
    """Runs both ways in turn and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a model folder; without it a random checkpoint of --size")
    parser.add_argument("--size", choices=NAMES, default="135m", help="a shape, or a real model")
    parser.add_argument("--weights", default="int4", choices=("fp32", "int4"))
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--shared", type=int, default=1000, help="tokens of the system prompt")
    parser.add_argument("--own", type=int, default=24, help="tokens of each message")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of each answer")
    parser.add_argument("--prefix-bytes", type=int, default=2**30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--report", type=Path, help="write the result there too")
    arguments = parser.parse_args()
    folder = arguments.model or build_standard(make_checkpoint(arguments.size, arguments.work_dir), arguments.weights)
    options = {"num_threads": arguments.threads} if arguments.backend == "ort" else {}
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {way: [] for way in arguments.ways}
    num_equal = num_compared = 0
    with TextGenerationPipeline(folder, backend=arguments.backend, options=options) as pipe:
        # Two chats warm up.
        warm = make_prompts(arguments, pipe.model.spec.vocab_size, 0)[:2]
        for reuse in (False, True):
            run(pipe, warm, arguments, at_once=True, reuse=reuse)
        for number in range(1, arguments.rounds + 1):
            prompts = make_prompts(arguments, pipe.model.spec.vocab_size, number)
            for way in arguments.ways:
                slow, without = run(pipe, prompts, arguments, at_once=way == "at_once", reuse=False)
                fast, reusing = run(pipe, prompts, arguments, at_once=way == "at_once", reuse=True)
                rounds[way].append({"without": without, "with": reusing})
                equal = sum(one == other for one, other in zip(slow, fast, strict=True))
                num_equal, num_compared = num_equal + equal, num_compared + len(prompts)
                line = {"round": number, "way": way, **rounds[way][-1], "equal_texts": equal, "of": len(prompts)}
                print(json.dumps(line), flush=True)
    report = {
        "model": folder.name,
        "size": None if arguments.model else arguments.size,
        "weights": None if arguments.model else arguments.weights,
        "threads": arguments.threads,
        "chats": arguments.chats,
        "slots": arguments.slots,
        "shared": arguments.shared,
        "own": arguments.own,
        "target": TARGET,
        "equal_texts": num_equal,
        "of": num_compared,
    }
    report |= {way: {clock: _ratios(taken, clock) for clock in _CLOCKS} for way, taken in rounds.items()}
    print(json.dumps(report))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _ratios(rounds: list[dict[str, dict[str, float]]], clock: str) -> dict[str, Any]:
    """Without reuse over with it, by one clock."""
    ratios = [taken["without"][clock] / taken["with"][clock] for taken in rounds]
    return {"ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios]}


def make_prompts(arguments: argparse.Namespace, vocab_size: int, seed: int) -> list[list[int]]:
    """Chats with one beginning."""
    random = np.random.default_rng(seed)
    shared = random.integers(0, vocab_size, arguments.shared).tolist()
    return [[*shared, *random.integers(0, vocab_size, arguments.own).tolist()] for _ in range(arguments.chats)]


def run(
    pipe: TextGenerationPipeline, prompts: list[list[int]], arguments: Any, *, at_once: bool, reuse: bool
) -> tuple[list[list[list[int]]], dict[str, float]]:
    """The tokens of all chats, with a scheduler of their own, and the mean time to the first token by either clock."""
    prefix_bytes = arguments.prefix_bytes if reuse else 0
    processor: list[float] = []
    with pipe.scheduler(slots=arguments.slots, prefix_bytes=prefix_bytes) as scheduler:

        def submit(prompt: list[int]) -> ScheduledRequest:
            begun = time.process_time()

            def note(sequence: NDArray[np.int64], _: str) -> bool:
                if len(sequence) == len(prompt) + 1:
                    processor.append(time.process_time() - begun)
                return False

            return scheduler.submit(prompt, max_new_tokens=arguments.tokens, stopping_criteria=[note])

        if at_once:
            results = [request.result() for request in [submit(prompt) for prompt in prompts]]
        else:
            results = [submit(prompt).result() for prompt in prompts]
    wall = statistics.mean(result.perf_metrics.time_to_first_token for result in results)
    return [result.token_ids for result in results], {"seconds": wall, "processor_seconds": statistics.mean(processor)}


if __name__ == "__main__":
    main()
