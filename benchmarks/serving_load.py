# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A server under load: clients of every kind at once, what they get, and what the server's memory does.

    python -m benchmarks.serving_load --requests 2000 --clients 64 --report docs/reports/serving.json

Requests have mixed lengths. Some clients close the connection after a few events, read slowly, reset the connection,
or are killed. Every answer is compared with what the pipeline gives for its question alone. Prints one JSON object; the
exit status is 1 if something was lost or wrong. A different answer is wrong unless the draw at the token where it parts
is within rounding of a border between tokens and it is the answer of that border's other side, or its question alone
gives it in other steps (benchmarks.load.other_steps).

What HTTP costs beside the scheduler alone: benchmarks.serving_overhead. Other servers: benchmarks.serving_peers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.load.client import Seen, ask
from benchmarks.load.other_steps import explain
from benchmarks.load.reference import references
from benchmarks.load.target import Target, free_port, own_command, running
from benchmarks.load.verdict import judge
from benchmarks.load.workload import Ask, make_asks, make_questions
from genai_iface import TextGenerationPipeline

_SETTLE_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs what is asked for, prints it as JSON, and gives it back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder (default: the embedded model)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=120, help="different prompts among the requests")
    parser.add_argument("--exact", action="store_true", help="compute in float32 where weights are integers")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work-dir", type=Path, default=Path(), help="for the server's log")
    parser.add_argument("--record", type=Path, help="write when which prompt came, for benchmarks.routing")
    parser.add_argument("--report", type=Path, help="write the result there too")
    given = parser.parse_args(arguments)
    result = hold_load(given)
    text = json.dumps(result)
    print(text)
    if given.report is not None:
        given.report.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def hold_load(given: argparse.Namespace) -> dict[str, Any]:
    """All kinds of clients against our server, and whether each answer is right."""
    options: dict[str, Any] = {"num_threads": given.threads}
    if given.exact:
        # Activations that are rounded to eight bits make more of the last bits of attention.
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
        result = {
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
    with TextGenerationPipeline(given.model, backend="ort", options=options) as pipe:
        result = (
            judge(seen, expected, lambda question, text, whole: explain(pipe, question, text, is_whole=whole)) | result
        )
    result["passed"] = is_settled and not (result["unexplained"] or result["errors"] or result["lost"])
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


if __name__ == "__main__":
    sys.exit(0 if main().get("passed", True) else 1)
