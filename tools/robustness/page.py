# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report: what ran, how long it took, what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tools.robustness.sources import ONNX_SOURCES

__all__ = ["page", "summary"]

_MEANING = {
    "refused": "`open_folder` raised a typed error",
    "opened": "opened; the settings or the runtime refused it with a typed error",
    "loaded": "loaded; the step or the arguments were refused with a typed error",
    "generated": "text came out",
    "too long": "stopped by the limit of time",
    "crashed": "the process ended",
}
_MOST_EXAMPLES = 3


def summary(cases: Sequence[Mapping[str, Any]], *, seed: int, wall_seconds: float, workers: int) -> dict[str, Any]:
    """Counts, times and findings of a run.

    Args:
        cases: The workers' lines.
        seed: Of the run.
        wall_seconds: How long it took.
        workers: Processes at once.
    """
    reached = Counter(case["reached"] for case in cases)
    seconds = sorted(case["seconds"] for case in cases)
    findings: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for case in cases:
        if case["reached"] == "too long":
            findings.setdefault(("any", "too long", ""), []).append({**case, "message": ""})
        for escape in case["escapes"]:
            key = (escape["stage"], escape["kind"], escape["place"])
            findings.setdefault(key, []).append({**case, "message": escape["message"]})
    return {
        "seed": seed,
        "cases": len(cases),
        "workers": workers,
        "wall_seconds": round(wall_seconds, 1),
        "reached": {name: reached.get(name, 0) for name in _MEANING},
        "seconds": {
            "median": _part(seconds, 0.5),
            "p99": _part(seconds, 0.99),
            "p99.9": _part(seconds, 0.999),
            "longest": _part(seconds, 1.0),
        },
        "peak_mb": max((case["peak_mb"] for case in cases), default=0.0),
        "findings": [
            {
                "stage": stage,
                "kind": kind,
                "place": place,
                "count": len(of_one),
                "examples": [
                    {"case": case["case"], "what": case["what"], "message": case["message"]}
                    for case in of_one[:_MOST_EXAMPLES]
                ],
            }
            for (stage, kind, place), of_one in sorted(findings.items(), key=lambda item: -len(item[1]))
        ],
    }


def page(data: Mapping[str, Any]) -> str:
    """The report as Markdown.

    Args:
        data: A summary with "versions" and "limits".
    """
    seconds, limits = data["seconds"], data["limits"]
    lines = [
        "<!--",
        # REUSE-IgnoreStart
        "SPDX-FileCopyrightText: The ONNX generative-AI interface authors",
        "SPDX-License-Identifier: Apache-2.0",
        # REUSE-IgnoreEnd
        "-->",
        "# Robustness",
        "",
        "Model folders, changed at random and used: opened, their texts read, loaded, two tokens generated. Whatever",
        "is in a folder, either it works or a `GenAIError` says what is wrong. Made by",
        f"`python -m tools.robustness --cases {data['cases']} --seed {data['seed']} --write`.",
        "",
        f"**{data['cases']:,} cases**, {sum(item['count'] for item in data['findings'])} findings, in "
        f"{data['wall_seconds'] / 60:.0f} minutes with {data['workers']} worker(s). "
        + ", ".join(f"{name} {number}" for name, number in data["versions"].items())
        + ".",
        "",
        "| Outcome | Cases | |",
        "|---|---|---|",
        *(f"| {name} | {data['reached'][name]:,} | {meaning} |" for name, meaning in _MEANING.items()),
        "",
        f"Seconds for a case: median {seconds['median']:.3f}, 99 % below {seconds['p99']:.2f}, 99.9 % below "
        f"{seconds['p99.9']:.2f}, the longest {seconds['longest']:.2f} (limit {limits['seconds']:.0f}). "
        f"Most memory of a worker process over the whole run: {data['peak_mb']:.0f} MB "
        f"(limit of the address space: {limits['gigabytes']:.0f} GB).",
        "",
        "## What is changed",
        "",
        f"Cases start from {len(ONNX_SOURCES)} tiny folders ({', '.join(ONNX_SOURCES)}) and change one or two of their "
        "files:",
        "",
        "- the graph, by its protobuf form: any field of any message; nodes dropped, doubled, moved, bypassed;",
        "  operators, domains, opset imports; edges; attributes; types and dimensions; weights; functions",
        "  that call themselves;",
        "- external data: the file cut or doubled, locations, offsets, lengths;",
        "- JSON files: fields with values of another type or size, lone surrogates, deep nesting, anything in the",
        "  tree;",
        "- chat templates made of pieces of Jinja; stretches of bytes of any file.",
        "",
        "One case in seven that opens is run by ONNX Runtime, the others by the NumPy backend. Cases are not guided by",
        "coverage.",
        "",
        "## Findings",
        "",
    ]
    if not data["findings"]:
        lines += ["None.", ""]
        return "\n".join(lines)
    lines += ["| Stage | What | Where | Cases | Example |", "|---|---|---|---|---|"]
    for item in data["findings"]:
        example = item["examples"][0]
        said = example["message"].replace("|", "/").replace("\n", " ")[:120]
        lines.append(
            f"| {item['stage']} | {item['kind']} | {item['place']} | {item['count']} | case {example['case']}: {said} |"
        )
    return "\n".join([*lines, ""])


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0
