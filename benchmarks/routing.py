# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What routing by prefix gains with many replicas: a simulation under a trace of arrivals.

    python -m benchmarks.routing --replicas 100 --speed 20

The router is the one of ``genai_iface.serving.ray_app``; replicas are simulated: a queue, slots, a cache of blocks of
prompts that forgets the least recently used, and constant speeds. A trace is JSON lines with timestamp (milliseconds),
input_length, output_length (tokens) and hash_ids (of the blocks of the prompt), as production traces are published;
the default one was recorded by ``benchmarks.serving_load --record``. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.load.verdict import percentiles
from genai_iface.serving.scale.affinity import PrefixAffinity

TRACE = Path(__file__).parents[1] / "docs/reports/arrivals.jsonl"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace.

    Attributes:
        seconds: When it comes.
        prompt: Tokens of the prompt.
        answer: Tokens of the answer.
        keys: Of the blocks of the prompt.
    """

    seconds: float
    prompt: int
    answer: int
    keys: tuple[bytes, ...]


@dataclass
class Replica:
    """A simulated one: prompts run one after the other, answers side by side.

    Attributes:
        slots: When each slot is free.
        prompts_until: When all prompts that it has were run.
        ends: Of the requests that it has.
        blocks: What its cache holds.
    """

    slots: list[float]
    prompts_until: float = 0.0
    ends: list[float] = field(default_factory=list)
    blocks: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def load(self, now: float) -> int:
        """Requests that run or wait."""
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
        return len(self.ends)

    def take(self, one: Arrival, given: argparse.Namespace) -> tuple[float, int]:
        """Runs a request: the time until its first token, and the tokens of its prompt that did not run."""
        held = sum(1 for _ in itertools.takewhile(self.blocks.__contains__, one.keys))
        share = held / len(one.keys) if one.keys else 0.0
        reused = min(int(one.prompt * share), one.prompt - 1)
        begin = max(one.seconds, heapq.heappop(self.slots), self.prompts_until)
        self.prompts_until = begin + (one.prompt - reused) / given.prompt_rate
        end = self.prompts_until + one.answer * given.token_seconds
        heapq.heappush(self.slots, end)
        heapq.heappush(self.ends, end)
        for key in reversed(one.keys):
            self.blocks[key] = None
            self.blocks.move_to_end(key)
        while len(self.blocks) > given.cache_blocks:
            self.blocks.popitem(last=False)
        return self.prompts_until - one.seconds, reused


Choose: TypeAlias = Callable[[Arrival, dict[int, int]], int]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the simulation with each way of routing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster than recorded requests come")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--prompt-rate", type=float, default=400.0, help="tokens of prompts a second of a replica")
    parser.add_argument("--token-seconds", type=float, default=0.03, help="of each token of an answer")
    parser.add_argument("--cache-blocks", type=int, default=256, help="blocks that a replica's cache holds")
    given = parser.parse_args(arguments)
    arrivals = read_trace(given.trace, given.speed)
    ways: dict[str, Choose] = {
        "round_robin": round_robin(given.replicas),
        "least_loaded": lambda _, loads: min(loads, key=lambda replica: (loads[replica], replica)),
        "prefix": by_prefix(given),
    }
    result: dict[str, Any] = {
        "replicas": given.replicas,
        "arguments": f"--speed {given.speed:g} --prompt-rate {given.prompt_rate:g}",
        "requests": len(arrivals),
        "requests_per_second": round(len(arrivals) / max(arrivals[-1].seconds, 1e-9), 1),
        "ways": {name: simulate(arrivals, choose, given) for name, choose in ways.items()},
    }
    print(json.dumps(result))
    return result


def read_trace(path: Path, speed: float) -> list[Arrival]:
    """The arrivals of a trace."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Arrival(
            (line["timestamp"] - lines[0]["timestamp"]) / 1000 / speed,
            line["input_length"],
            line["output_length"],
            tuple(str(name).encode() for name in line["hash_ids"]),
        )
        for line in lines
    ]


def round_robin(count: int) -> Choose:
    """Each replica in its turn."""
    turns = itertools.cycle(range(count))
    return lambda _, __: next(turns)


def by_prefix(given: argparse.Namespace) -> Choose:
    """As the router of the Ray application does it."""
    affinity: PrefixAffinity[int] = PrefixAffinity(max_blocks=given.cache_blocks, slack=given.slots // 2)

    def choose(one: Arrival, loads: dict[int, int]) -> int:
        chosen = affinity.rank(one.keys, loads)[0]
        affinity.note(one.keys, chosen)
        return chosen

    return choose


def simulate(arrivals: Sequence[Arrival], choose: Choose, given: argparse.Namespace) -> dict[str, Any]:
    """All requests, one way."""
    replicas = [Replica([0.0] * given.slots) for _ in range(given.replicas)]
    waits, reused = [], 0
    for one in arrivals:
        loads = {at: replica.load(one.seconds) for at, replica in enumerate(replicas)}
        wait, saved = replicas[choose(one, loads)].take(one, given)
        waits.append(wait)
        reused += saved
    prompts = sum(one.prompt for one in arrivals)
    return {
        "prompt_tokens_not_run": round(reused / prompts, 3),
        "seconds_to_first_token": {"mean": round(sum(waits) / len(waits), 4), **percentiles(waits)},
    }


if __name__ == "__main__":
    main()
