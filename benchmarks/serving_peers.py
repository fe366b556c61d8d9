# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Our server beside others on one model: requests a second, and the time to the first token.

    python -m benchmarks.serving_peers --work-dir /tmp/bench --weights fp32 --threads 2 --clients 1 8

``transformers serve`` (float32), llama.cpp's server and llama-cpp-python's, as far as they are installed. Servers run
one after the other, in both orders; prompts and numbers of greedy tokens are the same for all, prompts have no common
beginnings, and every answer streams. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import NAMES, build_gguf, build_standard, make_checkpoint
from benchmarks.load.peers import Peer, llama_cpp_python_server, llama_server, ours, read_stream, transformers_server
from benchmarks.load.target import Target, free_port, running
from benchmarks.load.workload import make_questions

_REQUESTS_PER_CLIENT = 2
_FEWEST = 6


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs each server, prints what it gave, and gives it back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--size", choices=NAMES, default="smollm2", help="a shape, or a real model")
    parser.add_argument("--weights", choices=("fp32", "int8", "int4"), default="fp32")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pin", type=int, nargs="+", help="processors of the servers")
    parser.add_argument("--only", nargs="+", metavar="SERVER", help="by their names in the result")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="write the result there too, beside the servers that it has")
    given = parser.parse_args(arguments)
    peers, missing = _peers(given)
    peers = [peer for peer in peers if given.only is None or peer.name in given.only]
    measured: dict[str, dict[int, list[dict[str, float]]]] = {}
    for number in range(given.rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            blocks = _run(peer, given, number)
            for clients, block in blocks.items():
                measured.setdefault(peer.name, {}).setdefault(clients, []).append(block)
    result = {
        "model": given.size,
        "weights": given.weights,
        "threads": given.threads,
        "slots": given.slots,
        "pinned_to": given.pin,
        "processors": os.cpu_count(),
        "rounds": given.rounds,
        "servers": {
            name: {
                str(clients): {key: round(statistics.median(one[key] for one in found), 3) for key in found[0]}
                | {"requests_per_second_of_each_round": [round(one["requests_per_second"], 3) for one in found]}
                for clients, found in by_clients.items()
            }
            for name, by_clients in measured.items()
        },
        "not_compared": missing,
    }
    print(json.dumps(result))
    if given.report is not None:
        if given.report.exists():
            known = json.loads(given.report.read_text(encoding="utf-8"))
            result["servers"] = {**known["servers"], **result["servers"]}
            result["not_compared"] = {**known["not_compared"], **missing}
        given.report.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _peers(given: argparse.Namespace) -> tuple[list[Peer], dict[str, str]]:
    """What there is, and why something is not."""
    checkpoint = make_checkpoint(given.size, given.work_dir)
    folder, gguf = build_standard(checkpoint, given.weights), build_gguf(checkpoint, given.weights) / "model.gguf"
    found = [ours(folder, slots=given.slots, threads=given.threads)]
    missing: dict[str, str] = {}
    others: dict[str, Callable[[], Peer]] = {
        "llama.cpp": lambda: llama_server(gguf, slots=given.slots, threads=given.threads),
        "llama-cpp-python": lambda: llama_cpp_python_server(gguf, checkpoint, threads=given.threads),
    }
    if given.weights == "fp32":
        threads = given.threads
        others["transformers"] = lambda: transformers_server(checkpoint, threads=threads, batching=False)
        others["transformers-batching"] = lambda: transformers_server(checkpoint, threads=threads, batching=True)
    else:
        missing["transformers serve"] = f"it has no {given.weights} for this processor"
    for name, make in others.items():
        try:
            found.append(make())
        except RuntimeError as error:
            missing[name] = str(error)
    return found, missing


def _run(peer: Peer, given: argparse.Namespace, number: int) -> dict[int, dict[str, float]]:
    """Starts a server, warms it up, and measures each number of clients."""
    port = free_port()
    log = given.work_dir / f"serving_peers_{peer.name}.log"
    blocks = {}
    with running(peer.command(port), port, peer.model, log, ready=peer.ready, processors=given.pin) as target:
        # Nobody finds what another block has left.
        seed = 1000 * given.seed + 100 * number
        _block(target, peer, 2, seed + 99)
        for clients in given.clients:
            blocks[clients] = _block(target, peer, clients, seed + clients)
    return blocks


def _block(target: Target, peer: Peer, clients: int, seed: int) -> dict[str, float]:
    """So many clients, each of which asks a few times."""
    count = max(_REQUESTS_PER_CLIENT * clients, _FEWEST)
    questions = make_questions(count, beginnings=count, seed=seed)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        read = list(pool.map(lambda one: read_stream(target, peer, f"{one[0]}.", one[1]), questions))
    seconds = time.perf_counter() - started
    return {
        "requests_per_second": count / seconds,
        "tokens_per_second": sum(one.tokens for one in read) / seconds,
        "first_token_seconds": statistics.median(one.first_seconds for one in read),
        "answer_seconds": statistics.median(one.seconds for one in read),
    }


if __name__ == "__main__":
    main()
