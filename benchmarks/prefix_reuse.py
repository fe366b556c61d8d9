# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What running a prefix once is worth: the time to the first token of chats that share their system prompt.

    python -m benchmarks.prefix_reuse --work-dir /tmp/bench --threads 2

Chats come all at once, with and without reuse in turn; then one after the other. One JSON line per round, then one with
the ratios, which ``--report`` writes too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoint import NAMES, build_standard, make_checkpoint
from genai_iface import GenerationResult, TextGenerationPipeline

TARGET = 5.0
WAYS = ("at_once", "one_by_one")


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
    seconds: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways}
    num_equal = num_compared = 0
    with TextGenerationPipeline(folder, backend=arguments.backend, options=options) as pipe:
        # Two chats warm up.
        warm = make_prompts(arguments, pipe.model.spec.vocab_size, 0)[:2]
        for reuse in (False, True):
            run(pipe, warm, arguments, at_once=True, reuse=reuse)
        for number in range(1, arguments.rounds + 1):
            prompts = make_prompts(arguments, pipe.model.spec.vocab_size, number)
            for way in arguments.ways:
                texts, taken = [], {}
                for name, reuse in (("without", False), ("with", True)):
                    results = run(pipe, prompts, arguments, at_once=way == "at_once", reuse=reuse)
                    texts.append([result.token_ids for result in results])
                    taken[name] = statistics.mean(result.perf_metrics.time_to_first_token for result in results)
                seconds[way].append(taken)
                equal = sum(one == other for one, other in zip(*texts, strict=True))
                num_equal, num_compared = num_equal + equal, num_compared + len(prompts)
                line = {"round": number, "way": way, **{name: round(value, 4) for name, value in taken.items()}}
                print(json.dumps({**line, "equal_texts": equal, "of": len(prompts)}), flush=True)
    report = {
        "model": folder.name,
        "threads": arguments.threads,
        "chats": arguments.chats,
        "slots": arguments.slots,
        "shared": arguments.shared,
        "own": arguments.own,
        "target": TARGET,
        "equal_texts": num_equal,
        "of": num_compared,
    }
    for way, rounds in seconds.items():
        ratios = [taken["without"] / taken["with"] for taken in rounds]
        report[way] = {
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
            **{
                f"mean_seconds_{name}": round(statistics.median(taken[name] for taken in rounds), 3)
                for name in ("without", "with")
            },
        }
    print(json.dumps(report))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def make_prompts(arguments: argparse.Namespace, vocab_size: int, seed: int) -> list[list[int]]:
    """Chats with one beginning."""
    random = np.random.default_rng(seed)
    shared = random.integers(0, vocab_size, arguments.shared).tolist()
    return [[*shared, *random.integers(0, vocab_size, arguments.own).tolist()] for _ in range(arguments.chats)]


def run(
    pipe: TextGenerationPipeline, prompts: list[list[int]], arguments: Any, *, at_once: bool, reuse: bool
) -> list[GenerationResult]:
    """The results of all chats, with a scheduler of their own."""
    prefix_bytes = arguments.prefix_bytes if reuse else 0
    with pipe.scheduler(slots=arguments.slots, prefix_bytes=prefix_bytes) as scheduler:
        if at_once:
            requests = [scheduler.submit(prompt, max_new_tokens=arguments.tokens) for prompt in prompts]
            return [request.result() for request in requests]
        return [scheduler.submit(prompt, max_new_tokens=arguments.tokens).result() for prompt in prompts]


if __name__ == "__main__":
    main()
