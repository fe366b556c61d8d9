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
  --report docs/reports/serving.json --record docs/reports/arrivals.jsonl
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

An answer that is different goes on in another way from some token on: by default ONNX Runtime rounds activations to
eight bits where weights are int8, and the batch has a part in that. `--exact` computes in float32. Greedy questions
where two tokens were nearly equally likely are not asked. That each difference comes from rounding is not proven.
"""
_BORDER = """
A draw picks the token between whose borders in the cumulative distribution it falls. Of the different answers
{explained} part from the reference at a token where, by the probabilities of the question alone, the draw is within
1e-5 of a border, and are, to the last character read, what the question alone gives on the other side. {unexplained} do
not.
"""
_COMPARE = """
## Beside others

<!-- not run: takes minutes, in a copy of the repository -->
```bash
python -m benchmarks.serving_load compare --model FOLDER --checkpoint FOLDER --clients {clients} \\
  --report docs/reports/serving-compare.json
```

The same requests, {clients} clients, {requests} requests a block, {blocks} blocks of each that take turns,
{threads} thread(s) each, {slots} slots, the model {model}.

| | Tokens per second over ours | of each block | Time to the first token over ours |
|---|---|---|---|
"""
_ROUTING = """
## Routing by prefix

<!-- not run: needs a copy of the repository -->
```bash
python -m benchmarks.routing --replicas {replicas} {arguments} > docs/reports/routing.json
```

A simulation: {requests} arrivals of the load test above, {requests_per_second} a second, on {replicas} simulated
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
    for name, write in (("serving", load_part), ("serving-compare", compare_part), ("routing", routing_part)):
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
    }
    exact = REPORTS / "serving-exact.json"
    return _LOAD.format(**fields) + (
        exact_part(json.loads(exact.read_text(encoding="utf-8"))) if exact.exists() else ""
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


def compare_part(result: dict[str, Any]) -> str:
    """Other servers, and the scheduler without HTTP."""
    rows = [
        f"| {name} | {median} | {', '.join(map(str, result['tokens_per_second_over_ours'][name]))} | "
        f"{result['first_token_over_ours'][name]} |"
        for name, median in result["median"].items()
    ]
    missing = [f"Not compared: {name} ({reason})." for name, reason in result["not_compared"].items()]
    return _COMPARE.format(**result) + "\n".join(rows) + "\n\n" + "\n".join(missing) + ("\n" if missing else "")


def routing_part(result: dict[str, Any]) -> str:
    """The simulation."""
    rows = []
    for name, way in result["ways"].items():
        seconds = way["seconds_to_first_token"]
        shown = ", ".join(str(seconds[key]) for key in ("mean", "p50", "p99"))
        rows.append(f"| {name.replace('_', ' ')} | {way['prompt_tokens_not_run']:.0%} | {shown} |")
    return _ROUTING.format(**result) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
