# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What continuous batching is worth: concurrent requests on a scheduler against one after the other.

    python -m benchmarks.continuous_batching --work-dir /tmp/bench --threads 2

Prompts and answers have different lengths, so that requests end at different steps. Both ways take turns, so that a
slow moment of the machine meets both. One JSON line per way, then one with the ratio: output tokens per second of all
requests together, and the mean time between two tokens of one request.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoint import NAMES, build_standard, make_checkpoint
from genai_iface import TextGenerationPipeline

TARGET = 3.0


def main() -> None:
    """Runs both ways in turn and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a model folder; without it a random checkpoint of --size")
    parser.add_argument("--size", choices=NAMES, default="135m", help="a shape, or a real model")
    parser.add_argument("--weights", default="int4", choices=("fp32", "int4"))
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--device", help="an identifier of the backend")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=24, help="in all; so many as slots run at once")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--token-budget", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=32, help="mean tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=96, help="mean tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = arguments.model or build_standard(make_checkpoint(arguments.size, arguments.work_dir), arguments.weights)
    options = {"num_threads": arguments.threads} if arguments.backend == "ort" else {}
    seconds: dict[str, list[float]] = {"one_after_the_other": [], "scheduler": []}
    with TextGenerationPipeline(folder, backend=arguments.backend, device=arguments.device, options=options) as pipe:
        requests = make_requests(arguments, pipe.model.spec.vocab_size)
        alone(pipe, requests[:1])
        with pipe.scheduler(slots=arguments.slots, token_budget=arguments.token_budget, thread=False) as scheduler:
            together(scheduler, requests)
            for _ in range(arguments.rounds):
                begin = time.perf_counter()
                single = alone(pipe, requests)
                seconds["one_after_the_other"].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                batched = together(scheduler, requests)
                seconds["scheduler"].append(time.perf_counter() - begin)
    tokens = sum(request["max_new_tokens"] for request in requests)
    for (name, taken), results in zip(seconds.items(), (single, batched), strict=True):
        line = {
            "way": name,
            "tokens_per_second": round(tokens / statistics.median(taken), 1),
            "milliseconds_between_tokens": round(
                1e3 * statistics.mean(result.perf_metrics.time_per_output_token for result in results), 2
            ),
            "seconds_to_first_token": round(
                statistics.mean(result.perf_metrics.time_to_first_token for result in results), 3
            ),
        }
        print(json.dumps(line))
    ratio = statistics.median(
        slow / fast for slow, fast in zip(seconds["one_after_the_other"], seconds["scheduler"], strict=True)
    )
    equal = sum(one.token_ids == other.token_ids for one, other in zip(single, batched, strict=True))
    line = {
        "measure": f"{arguments.slots} requests at once over one after the other",
        "model": folder.name,
        "requests": arguments.requests,
        "prompt_tokens": sum(len(request["prompt"]) for request in requests),
        "output_tokens": tokens,
        "value": round(ratio, 2),
        "target": TARGET,
        "met": ratio >= TARGET,
        "requests_with_equal_tokens": equal,
    }
    print(json.dumps(line))


def make_requests(arguments: argparse.Namespace, vocab_size: int) -> list[dict[str, Any]]:
    """Random prompts and lengths of answers, from half the mean to one and a half."""
    random = np.random.default_rng(0)
    spread = np.linspace(0.5, 1.5, arguments.requests)
    prompts = random.permutation(spread * arguments.prompt).astype(int)
    answers = random.permutation(spread * arguments.tokens).astype(int)
    return [
        {
            "prompt": random.integers(3, vocab_size, max(int(prompt), 1)).tolist(),
            "max_new_tokens": max(int(answer), 1),
            "ignore_eos": True,
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def alone(pipe: TextGenerationPipeline, requests: list[dict[str, Any]]) -> list[Any]:
    """One call after the other."""
    return [pipe.generate(**request) for request in requests]


def together(scheduler: Any, requests: list[dict[str, Any]]) -> list[Any]:
    """All at once."""
    given = [scheduler.submit(**request) for request in requests]
    return [request.result() for request in given]


if __name__ == "__main__":
    main()
