# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What HTTP costs: the scheduler in this process beside our server, and the shares of the server's threads.

    python -m benchmarks.serving_overhead --work-dir /tmp/bench --weights int8 --threads 2 --clients 8

Three sides take turns: the scheduler alone, whole answers over HTTP, and streams. All have the same prompts in a block;
none finds another block's prefixes. Prints one JSON object: tokens a second of each block over those of the scheduler;
and what the server's other threads computed over what the one did that runs the steps, which is the share that HTTP can
take at most where there is one processor, and which other programs disturb less. It is right for --threads 1.
With ``--pin`` the server computes on those processors alone, the scheduler's thread too, and clients wherever they can.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import NAMES, build_standard, make_checkpoint
from benchmarks.load.client import ask
from benchmarks.load.target import Target, free_port, on_processors, own_command, running
from benchmarks.load.workload import Ask, make_questions
from genai_iface import TextGenerationPipeline

TARGET = 0.95


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the sides in turn, prints what they gave, and gives it back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a model folder; without it a checkpoint of --size")
    parser.add_argument("--size", choices=NAMES, default="smollm2", help="a shape, or a real model")
    parser.add_argument("--weights", choices=("fp32", "int8", "int4"), default="int8")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=16, help="of each block")
    parser.add_argument("--words", type=int, default=24, help="of each prompt, at most 44")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pin", type=int, nargs="+", help="processors of the scheduler and of the server")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--report", type=Path, help="write the result there too")
    given = parser.parse_args(arguments)
    folder = given.model or build_standard(make_checkpoint(given.size, given.work_dir), given.weights)
    options = {"num_threads": given.threads}
    rates: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    with ExitStack() as stack:
        pipe = stack.enter_context(TextGenerationPipeline(folder, backend="ort", options=options))
        port = free_port()
        command = own_command(str(folder), port, options, slots=given.slots, queue=256)
        log = given.work_dir / "serving_overhead.log"
        target = stack.enter_context(running(command, port, folder.name, log, processors=given.pin))
        sides: dict[str, Callable[[list[Ask]], tuple[float, float]]] = {
            "scheduler": lambda asks: _without_http(pipe, given, asks),
            "whole": lambda asks: _over_http(target, given, asks, "whole"),
            "stream": lambda asks: _over_http(target, given, asks, "stream"),
        }
        for block in range(given.blocks + 1):
            questions = make_questions(given.requests, beginnings=given.requests, seed=block)
            prompts = [" ".join(prompt.split()[: given.words]) for prompt, _, _ in questions]
            asks = [Ask(at, prompt, given.tokens, None, "whole") for at, prompt in enumerate(prompts)]
            for name in list(sides) if block % 2 else list(sides)[::-1]:
                rate, share = sides[name](asks)
                if block:  # the first one warms up
                    rates.setdefault(name, []).append(rate)
                    shares.setdefault(name, []).append(share)
    alone = rates["scheduler"]
    ratios = {
        name: [round(one / other, 3) for one, other in zip(found, alone, strict=True)]
        for name, found in rates.items()
        if name != "scheduler"
    }
    result = {
        "model": folder.name,
        "clients": given.clients,
        "slots": given.slots,
        "threads": given.threads,
        "pinned_to": given.pin,
        "processors": os.cpu_count(),
        "blocks": given.blocks,
        "requests": given.requests,
        "words": given.words,
        "tokens": given.tokens,
        "scheduler_tokens_per_second": round(statistics.median(alone), 1),
        "over_scheduler": ratios,
        "median": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "other_threads_over_steps": {
            name: round(statistics.median(found), 4) for name, found in shares.items() if name in ratios
        },
        "target": TARGET,
    }
    print(json.dumps(result))
    if given.report is not None:
        given.report.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _without_http(pipe: TextGenerationPipeline, given: argparse.Namespace, asks: list[Ask]) -> tuple[float, float]:
    """Tokens a second, and 0 for the share of what is not there."""

    def work(one: Ask) -> int:
        request = scheduler.submit(one.prompt, max_new_tokens=one.max_tokens, temperature=0)
        return request.result().perf_metrics.num_generated_tokens

    with on_processors(given.pin):
        scheduler = pipe.scheduler(slots=given.slots, prefix_bytes=2**30)
    with scheduler, ThreadPoolExecutor(given.clients) as pool:
        started = time.perf_counter()
        tokens = sum(pool.map(work, asks))
        return tokens / (time.perf_counter() - started), 0.0


def _over_http(target: Target, given: argparse.Namespace, asks: list[Ask], kind: Any) -> tuple[float, float]:
    """Tokens a second, and what the server's other threads computed over what its busiest did.

    Raises:
        RuntimeError: A request failed.
    """
    # Whole answers and streams of a block ask other things.
    asked = [Ask(one.number, f"{kind}: {one.prompt}", one.max_tokens, None, kind) for one in asks]
    started, before = time.perf_counter(), target.cpu_seconds
    with ThreadPoolExecutor(given.clients) as pool:
        seen = list(pool.map(lambda one: ask(target.port, target.model, one), asked))
    seconds = time.perf_counter() - started
    computed = [now - before.get(thread, 0.0) for thread, now in target.cpu_seconds.items()]
    failed = [one.error for one in seen if one.error is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(seen)} requests failed; the first: {failed[0]}")
    tokens = sum(one.tokens for one in seen)
    return tokens / seconds, sum(computed) / max(computed) - 1


if __name__ == "__main__":
    main()
