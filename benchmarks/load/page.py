# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""docs/reports/serving.md, from what the benchmarks have written beside it.

python -m benchmarks.load.page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parents[2] / "docs/reports"

_HEAD = """<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# Serving under load

Written by `python -m benchmarks.load.page` from what the commands below have measured. The machine had two cores and
was shared with other work at the time: ratios of blocks that take turns say something, single times do not.
"""
_LOAD = """
## Held

<!-- not run: takes minutes, in a copy of the repository -->
```bash
python -m benchmarks.serving_load --requests {requests} --clients {clients} \\
  --report docs/reports/serving.json
```

{clients} clients at once, {requests} requests of mixed lengths to {questions} questions, {slots} slots,
the {model} model. {kinds}.

| | |
|---|---|
| Requests that were lost | {lost} |
| Errors | {errors} |
| Answers compared with what the pipeline gives for the question alone | {answers_compared} |
| of these different | {different_from_reference} |
| of these the answer of another question | {answers_of_another_question} |
| Slots free when all clients had gone | {settled} |
| Memory of the server, last quarter of the run over the second | {growth:+.1%} ({samples} samples) |
| Seconds of an answer, median and 99th percentile | {p50} and {p99} |
| Seconds to the first token of a stream | {first50} and {first99} |
| Requests per second | {requests_per_second} |
| Share of the tokens of prompts that a held prefix saved | {cached_share_of_prompts:.0%} |

Of the different answers {at_border} are, to the last character read, what the question alone gives on the other side
of a border that the draw is within 1e-5 of. {in_other_steps} more are what the question gives **alone, in other
steps**: nothing else is in the cache, only do some tokens run in a step that is one token wide that did not before, or
the other way round. Neither: **{unexplained}**.
"""
_STEPS = """
Why steps matter with int8 weights: ONNX Runtime's attention computes a token in a step that is one token wide by
another kernel than in a wider one, and their results differ in their last bits (1.9e-7 for one operator). A step is
wider for an answer's token where a short part of a prompt runs beside it: a scheduler pads the one to the other where
that costs less than a run of its own. What runs there, how long it is and how many rows there are changes nothing,
not one bit: neither attention nor products with int8 weights, which round activations to eight bits, each row by
itself. But a last bit may become a step of that rounding, and the logits move by hundredths instead of millionths.
Steps of other widths are all that was found to reach a row under load; the runs alone have these. The {count}
different answers with which it happened: "from the border" is the distance of the draw in probability, for a greedy
question that of the two logits.

| Seed | Token that parts first | From the border | Logits apart there | Runs until one gave the answer |
|---|---|---|---|---|
"""
_BORDER = """
A draw picks the token between whose borders in the cumulative distribution it falls. Of the different answers
{explained} part from the reference at a token where, by the probabilities of the question alone, the draw is within
1e-5 of a border, and are, to the last character read, what the question alone gives on the other side. {unexplained} do
not.
"""
_PREFIX = """
## A prefix that is run once

<!-- not run: takes minutes, in a copy of the repository -->
```bash
python -m benchmarks.prefix_reuse --work-dir DIR --size {size} --weights {weights} --threads {threads} \\
  --ways {ways} --rounds {rounds} --report docs/reports/serving-prefix.json
```

{chats} chats with one system prompt of {shared} tokens and {own} tokens of their own, {slots} slots, the model {model}
with random weights, {threads} thread(s), with and without reuse in turn. The goal for chats that come all at once is
{target:g} times. The time to the first token is taken by the clock, and in seconds that processors have computed for
the process, which other programs on the machine hardly change.

| | Time to the first token without reuse over that with it, median | Rounds |
|---|---|---|
{rows}

{equal_texts} of {of} texts are the same with and without.
"""
_OVERHEAD = """
## What HTTP costs

<!-- not run: takes minutes, in a copy of the repository -->
```bash
python -m benchmarks.serving_overhead --work-dir DIR --weights int8 --threads {threads} --pin 0 --blocks {blocks} \\
  --requests {requests} --report docs/reports/serving-overhead.json
```

The scheduler in a program beside our server, the model {model}, {clients} clients, {slots} slots, {blocks} blocks of
{requests} requests for {tokens} tokens that take turns, the server on one processor.

The last column is what the server's other threads computed over what the one did that runs the steps: a program beside
it disturbs that less than it does times.

| | Tokens a second over the scheduler's, median | of each block | Other threads |
|---|---|---|---|
"""
_PEERS = """
## Beside others, {weights}

<!-- not run: takes minutes, in a copy of the repository -->
```bash
python -m benchmarks.serving_peers --work-dir DIR --weights {weights} --threads {threads}{pin} --rounds {rounds} \\
  --clients {clients} --report docs/reports/{file}.json
```

{model} in {weights}, {threads} thread(s) for each server, one server after the other ({rounds} round), the same prompts
and numbers of greedy tokens, prompts without common beginnings, answers streamed, {slots} slots where there are slots
(llama-cpp-python's server has none: it runs one request after the other). llama.cpp's own server is the one in the
package xllamacpp.

| Clients | Server | Requests a second | Tokens a second | Seconds to the first token | of an answer, medians |
|---|---|---|---|---|---|
"""
_RAY = """
## A replica that is killed, and replicas that come and go

<!-- not run: takes minutes, in a copy of the repository -->
```bash
python -m benchmarks.ray_serving --replicas {replicas} --clients {clients} --report docs/reports/serving-ray.json
```

A local Ray on {processors} processors, {replicas} replicas of the embedded model, {clients} clients that ask all the
time. One replica is killed.

| | Requests per second |
|---|---|
| before | {before} |
| in the 5 seconds around the kill | {around} |
| from the kill until all replicas run again, {back} seconds | {until_all_replicas} |
| in the {seconds_after} seconds after that | {after} |

Outcomes: {outcomes}. Replicas share the processors, so fewer of
them need not be slower.

Then an application of one replica that may have two, with a target of one request each, and {clients} clients: replicas
{counts}; two after {up} seconds of load, one again {down} seconds after its end. Outcomes: {scaled}.
"""
_ROUTING = """
## Routing by prefix

<!-- not run: needs a copy of the repository -->
```bash
python -m benchmarks.routing --replicas {replicas} {arguments} > docs/reports/routing.json
```

A simulation: {requests} arrivals of a run of the load test, {requests_per_second} a second, on {replicas} simulated
replicas. The prompts share eight beginnings, and
each question comes about 18 times, which helps every way of routing that brings it to the same replica again. A trace
without shared beginnings gains nothing. The 99th percentile may be worse: a prefix that many want makes its
replica busy.

| | Tokens of prompts that did not run | Seconds to the first token: mean, median, 99th percentile |
|---|---|---|
"""


def main() -> None:
    """Writes the page, with a part for each result that is there."""
    parts = [_HEAD]
    for name, write in _PARTS.items():
        path = REPORTS / f"{name}.json"
        if path.exists():
            parts.append(write(json.loads(path.read_text(encoding="utf-8"))))
    (REPORTS / "serving.md").write_text("".join(parts), encoding="utf-8")


def load_part(result: dict[str, Any]) -> str:
    """The load test."""
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(result["kinds"].items(), key=lambda item: -item[1]))
    first, whole = result["seconds_to_first_token"], result["seconds"]
    fields = {
        **result,
        "kinds": f"Kinds of clients: {kinds}",
        "settled": "all" if result["slots_free_at_the_end"] else "not all",
        "growth": result["memory"]["growth"],
        "samples": result["memory"]["samples"],
        "p50": whole["p50"],
        "p99": whole["p99"],
        "first50": first["p50"],
        "first99": first["p99"],
        "at_border": result["different_from_reference"] - result["unexplained"] - result["different_in_other_steps"],
        "in_other_steps": result["different_in_other_steps"],
    }
    rows = [
        f"| {one['seed'] or 'none'} | {one['token'] + 1} | {one['from_border']:.2g} | {one['logits_apart']:.2g} | "
        f"{one['runs']} |"
        for one in result["in_other_steps"]
    ]
    lines = [
        f"- {'greedy' if one['seed'] is None else one['seed']}, after {one['at']} characters: {one['got']!r} for "
        f"{one['expected']!r}"
        for one in result["first_unexplained"]
    ]
    left = "\nNot explained:\n\n" + "\n".join(lines) + "\n" if lines else ""
    steps = _STEPS.format(count=len(rows)) + "\n".join(rows) + "\n" if rows else ""
    exact = REPORTS / "serving-exact.json"
    return (
        _LOAD.format(**fields)
        + left
        + steps
        + (exact_part(json.loads(exact.read_text(encoding="utf-8"))) if exact.exists() else "")
    )


def exact_part(result: dict[str, Any]) -> str:
    """The same in float32."""
    different, unexplained = result["different_from_reference"], result["unexplained"]
    near = [one["from_border"] for one in result["first_different"] if one["from_border"] is not None]
    text = (
        f"\nWith `--exact --requests {result['requests']} --questions 60 --report docs/reports/serving-exact.json`: "
        f"{result['answers_compared']} answers compared, {different} different, "
        f"{result['errors']} errors, {result['lost']} lost.\n"
    )
    return (
        text
        + (_BORDER.format(explained=different - unexplained, **result) if different else "")
        + (f"Draws were at most {max(near):.1e} away from their borders.\n" if near else "")
    )


def prefix_part(result: dict[str, Any]) -> str:
    """What reuse is worth."""
    names = {"at_once": "all at once", "one_by_one": "one after the other"}
    clocks = {"seconds": "by the clock", "processor_seconds": "of processors"}
    ways = [way for way in names if way in result]
    rows = [
        f"| {names[way]}, {shown} | {found['ratio']} | {', '.join(map(str, found['ratios']))} |"
        for way in ways
        for clock, shown in clocks.items()
        for found in [result[way][clock]]
    ]
    rounds = len(result[ways[0]]["seconds"]["ratios"])
    return _PREFIX.format(rows="\n".join(rows), ways=" ".join(ways), rounds=rounds, **result)


def overhead_part(result: dict[str, Any]) -> str:
    """The scheduler without HTTP."""
    rows = [
        f"| {name} answers | {median} | {', '.join(map(str, result['over_scheduler'][name]))} | "
        f"{result['other_threads_over_steps'][name]:.1%} |"
        for name, median in result["median"].items()
    ]
    return _OVERHEAD.format(**result) + "\n".join(rows) + "\n"


def peers_part(result: dict[str, Any]) -> str:
    """Other servers."""
    keys = ("requests_per_second", "tokens_per_second", "first_token_seconds", "answer_seconds")
    numbers = sorted({int(clients) for found in result["servers"].values() for clients in found})
    rows = [
        f"| {clients} | {name} | {' | '.join(str(found[str(clients)][key]) for key in keys)} |"
        for clients in numbers
        for name, found in result["servers"].items()
    ]
    missing = [f"Not compared: {name} ({reason})." for name, reason in result["not_compared"].items()]
    pin = "".join(f" {each}" for each in ["--pin", *result["pinned_to"]]) if result["pinned_to"] else ""
    file = "serving-peers" if result["weights"] == "fp32" else f"serving-peers-{result['weights']}"
    asked = " ".join(map(str, numbers))
    return (
        _PEERS.format(**result, pin=pin, file=file, clients=asked)
        + "\n".join(rows)
        + "\n"
        + "".join(f"\n{line}\n" for line in missing)
    )


def ray_part(result: dict[str, Any]) -> str:
    """Kills, and the number of replicas."""
    killed, scaled = result["kill"], result["scaling"]
    told = ("before", "around", "until_all_replicas", "seconds_after", "after")
    fields = {**result, **{key: killed[key] for key in told}}
    fields |= {"back": killed["seconds_until_all_replicas"], "outcomes": _counted(killed["outcomes"])}
    fields |= {"up": scaled["seconds_to_two"], "down": scaled["seconds_to_one"]}
    fields |= {"counts": ", ".join(map(str, scaled["replicas"])), "scaled": _counted(scaled["outcomes"])}
    return _RAY.format(**fields)


def _counted(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in outcomes.items())


def routing_part(result: dict[str, Any]) -> str:
    """The simulation."""
    rows = []
    for name, way in result["ways"].items():
        seconds = way["seconds_to_first_token"]
        shown = ", ".join(str(seconds[key]) for key in ("mean", "p50", "p99"))
        rows.append(f"| {name.replace('_', ' ')} | {way['prompt_tokens_not_run']:.0%} | {shown} |")
    return _ROUTING.format(**result) + "\n".join(rows) + "\n"


_PARTS = {
    "serving": load_part,
    "serving-prefix": prefix_part,
    "serving-overhead": overhead_part,
    "serving-peers": peers_part,
    "serving-peers-int8": peers_part,
    "serving-ray": ray_part,
    "routing": routing_part,
}

if __name__ == "__main__":
    main()
