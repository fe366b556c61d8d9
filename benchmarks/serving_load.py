# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A server under load: clients of every kind at once, what they get, and what the server's memory does.

    python -m benchmarks.serving_load --requests 2000 --clients 64 --report docs/reports/serving.json

Requests have mixed lengths. Some clients close the connection after a few events, read slowly, reset the connection,
or are killed. Every answer is compared with what the pipeline gives for its question alone. Prints one JSON object; the
exit status is 1 if something was lost or wrong. With ``--exact``, a different answer is wrong unless the draw at the
token where it parts is within rounding of a border between tokens, and it is the answer of that border's other side.

    python -m benchmarks.serving_load compare --model FOLDER --checkpoint FOLDER --clients 8

compares with the scheduler in this process, and with other servers on the same model: ``transformers serve`` for a
checkpoint, llama-cpp-python's server for a GGUF file, as far as they are installed. Blocks take turns, in both orders.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load.client import Seen, ask
from benchmarks.load.reference import references
from benchmarks.load.target import Target, free_port, own_command, running
from benchmarks.load.verdict import judge, percentiles
from benchmarks.load.workload import TEMPERATURE, Ask, make_asks, make_questions
from genai_iface import TextGenerationPipeline

_SETTLE_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs what is asked for, prints it as JSON, and gives it back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("load", "compare"), default="load")
    parser.add_argument("--model", help="a model folder (default: the embedded model)")
    parser.add_argument("--checkpoint", type=Path, help="the same model for `transformers serve`")
    parser.add_argument("--gguf", type=Path, help="the same model for llama-cpp-python's server")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=120, help="different prompts among the requests")
    parser.add_argument("--exact", action="store_true", help="compute in float32 where weights are integers")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("--blocks", type=int, default=4, help="of compare: pairs of each server with ours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work-dir", type=Path, default=Path(), help="for the servers' logs")
    parser.add_argument("--record", type=Path, help="write when which prompt came, for benchmarks.routing")
    parser.add_argument("--report", type=Path, help="write the result there too")
    given = parser.parse_args(arguments)
    result = {"load": hold_load, "compare": compare}[given.what](given)
    text = json.dumps(result)
    print(text)
    if given.report is not None:
        given.report.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def hold_load(given: argparse.Namespace) -> dict[str, Any]:
    """All kinds of clients against our server."""
    options: dict[str, Any] = {"num_threads": given.threads}
    if given.exact:
        # Activations that are rounded to eight bits make some tokens a matter of who else is in the batch.
        options["session_options"] = {"session.qdq_matmulnbits_accuracy_level": "1"}
    with TextGenerationPipeline(given.model, backend="ort", options=options) as pipe:
        expected = references(pipe, make_questions(given.questions, beginnings=8, seed=given.seed))
    asks = make_asks(given.requests, list(expected), seed=given.seed)
    name = "embedded" if given.model is None else Path(given.model).resolve().name
    port, log = free_port(), given.work_dir / "serving_load.log"
    command = own_command(given.model, port, options, slots=given.slots, queue=4 * given.clients)
    with running(command, port, name, log) as server:
        memory: list[int] = []
        started = time.perf_counter()
        seen, arrivals = _all(server, asks, given.clients, lambda: memory.append(server.resident_bytes))
        seconds = time.perf_counter() - started
        is_settled = _settled(server)
        result = judge(seen, expected)
        result |= {
            "clients": given.clients,
            "slots": given.slots,
            "model": name,
            "exact": given.exact,
            "questions": len(expected),
            "lost": given.requests - len(seen),
            "slots_free_at_the_end": is_settled,
            "requests_per_second": round(given.requests / seconds, 2),
            "generated_tokens": int(server.metric("generated_tokens_total")),
            "cached_share_of_prompts": round(
                server.metric("cached_tokens_total") / server.metric("prompt_tokens_total"), 3
            ),
            "memory": _flatness(memory),
        }
        wrong = result["unexplained" if given.exact else "answers_of_another_question"]
        result["passed"] = is_settled and not (wrong or result["errors"] or result["lost"])
    if given.record is not None:
        _record(given.record, asks, arrivals)
    return result


def _all(
    server: Target, asks: Sequence[Ask], clients: int, on_each: Callable[[], object]
) -> tuple[list[Seen], dict[int, float]]:
    """Sends all requests, so many at a time."""
    seen: list[Seen] = []
    arrivals: dict[int, float] = {}
    lock = threading.Lock()
    started = time.perf_counter()

    def work(one: Ask) -> None:
        arrivals[one.number] = time.perf_counter() - started
        got = ask(server.port, server.model, one)
        with lock:
            seen.append(got)
            if len(seen) % 10 == 0:
                on_each()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, asks))
    return seen, arrivals


def _settled(server: Target) -> bool:
    """Whether nothing runs or waits any more, soon after the last client has gone."""
    end = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < end:
        if server.metric("running_sequences") == server.metric("waiting_sequences") == 0:
            return True
        time.sleep(0.1)
    return False


def _flatness(memory: Sequence[int]) -> dict[str, float]:
    """Whether it grows: medians of the second quarter and of the last one; the first warms up."""
    quarter = max(len(memory) // 4, 1)
    before, after = (statistics.median(part) for part in (memory[quarter : 2 * quarter] or memory, memory[-quarter:]))
    return {
        "second_quarter_mib": round(before / 2**20, 1),
        "last_quarter_mib": round(after / 2**20, 1),
        "growth": round(after / before - 1, 4),
        "samples": len(memory),
    }


def _record(path: Path, asks: Sequence[Ask], arrivals: dict[int, float]) -> None:
    """Arrivals in the form in which production traces are published: times, lengths, and ids of blocks of prompts."""
    ids: dict[str, int] = {}
    lines = []
    for one in sorted(asks, key=lambda one: arrivals[one.number]):
        words = one.prompt.split()
        starts = [" ".join(words[:end]) for end in range(8, len(words) + 1, 8)]
        blocks = [ids.setdefault(start, len(ids)) for start in starts]
        line = {"timestamp": round(arrivals[one.number] * 1000), "input_length": len(words)}
        lines.append(json.dumps({**line, "output_length": one.max_tokens, "hash_ids": blocks}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Our server, the scheduler without HTTP, and other servers: requests, and seconds to the first token."""
    asks = make_asks(
        given.requests, make_questions(given.requests, beginnings=8, seed=given.seed), seed=given.seed, polite=True
    )
    rates: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        sides = dict(_sides(given, stack, missing))
        names = list(sides)
        for block in range(given.blocks + 1):
            for name in names if block % 2 else reversed(names):
                rate, seconds = sides[name](asks, block)
                if block:  # the first one warms up
                    rates.setdefault(name, []).append(rate)
                    first.setdefault(name, []).append(seconds)
    ours = rates["ours"]
    return {
        "clients": given.clients,
        "requests": given.requests,
        "blocks": given.blocks,
        "threads": given.threads,
        "slots": given.slots,
        "model": "embedded" if given.model is None else Path(given.model).resolve().name,
        "tokens_per_second_over_ours": {
            name: [round(other / own, 3) for other, own in zip(values, ours, strict=True)]
            for name, values in rates.items()
        },
        "median": {
            name: round(statistics.median(other / own for other, own in zip(values, ours, strict=True)), 3)
            for name, values in rates.items()
        },
        "first_token_over_ours": {
            name: round(statistics.median(other / own for other, own in zip(values, first["ours"], strict=True)), 3)
            for name, values in first.items()
        },
        "not_compared": missing,
    }


_Side = Callable[[Sequence[Ask], int], tuple[float, float]]


def _sides(given: argparse.Namespace, stack: ExitStack, missing: dict[str, str]) -> Iterator[tuple[str, _Side]]:
    """What there is to compare, started."""
    name = "embedded" if given.model is None else Path(given.model).resolve().name
    pipe = stack.enter_context(
        TextGenerationPipeline(given.model, backend="ort", options={"num_threads": given.threads})
    )
    yield "scheduler", functools.partial(_without_http, pipe, given)
    commands: dict[str, Callable[[int], list[str]]] = {
        "ours": lambda port: own_command(
            given.model, port, {"num_threads": given.threads}, slots=given.slots, queue=256
        )
    }
    models = {"ours": name}
    if given.checkpoint is not None:
        models["transformers"] = str(given.checkpoint)
        commands["transformers"] = lambda port: [
            str(Path(sys.executable).with_name("transformers")),
            *("serve", str(given.checkpoint), "--continuous-batching", "--host", "127.0.0.1", "--port", str(port)),
        ]
    if given.gguf is None or importlib.util.find_spec("llama_cpp") is None:
        missing["llama-cpp-python"] = "not installed, or no --gguf"
    else:
        models["llama-cpp-python"] = given.gguf.name
        commands["llama-cpp-python"] = lambda port: [
            *(sys.executable, "-m", "llama_cpp.server", "--model", str(given.gguf), "--host", "127.0.0.1"),
            *("--port", str(port), "--n_threads", str(given.threads), "--n_ctx", "4096"),
        ]
    for side, command in commands.items():
        port = free_port()
        ready = "/v1/models" if side == "llama-cpp-python" else "/health"
        log = given.work_dir / f"serving_load_{side}.log"
        try:
            target = stack.enter_context(running(command(port), port, models[side], log, ready=ready))
        except (OSError, RuntimeError) as error:
            missing[side] = str(error)
            continue
        yield side, functools.partial(_over_http, target, given)


def _over_http(target: Target, given: argparse.Namespace, asks: Sequence[Ask], block: int) -> tuple[float, float]:
    """Tokens a second, and the median time to the first one."""
    ours = [_of_block(one, block, number) for number, one in enumerate(asks)]
    started = time.perf_counter()
    seen, _ = _all(target, ours, given.clients, lambda: None)
    seconds = time.perf_counter() - started
    failed = [one.error for one in seen if one.error is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(seen)} requests failed; the first: {failed[0]}")
    first = percentiles([one.first_seconds for one in seen if one.first_seconds is not None])
    return sum(one.tokens for one in seen) / seconds, first["p50"]


def _without_http(
    pipe: TextGenerationPipeline, given: argparse.Namespace, asks: Sequence[Ask], block: int
) -> tuple[float, float]:
    """The same by the scheduler in this process."""

    def work(one: Ask) -> tuple[int, float]:
        request = scheduler.submit(
            one.prompt,
            max_new_tokens=one.max_tokens,
            temperature=0 if one.seed is None else TEMPERATURE,
            seed=one.seed or 0,
        )
        metrics = request.result().perf_metrics
        return metrics.num_generated_tokens, metrics.time_to_first_token or 0.0

    ours = [_of_block(one, block, number) for number, one in enumerate(asks)]
    with pipe.scheduler(slots=given.slots, prefix_bytes=2**30) as scheduler, ThreadPoolExecutor(given.clients) as pool:
        started = time.perf_counter()
        done = list(pool.map(work, ours))
        seconds = time.perf_counter() - started
    return sum(tokens for tokens, _ in done) / seconds, percentiles([first for _, first in done])["p50"]


def _of_block(one: Ask, block: int, number: int) -> Ask:
    """Blocks ask other things, so that none finds the last one's prefixes; half of the requests stream."""
    return Ask(one.number, f"{block}. {one.prompt}", one.max_tokens, one.seed, "stream" if number % 2 else "whole")


if __name__ == "__main__":
    sys.exit(0 if main().get("passed", True) else 1)
