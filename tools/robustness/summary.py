# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Counts, times and findings of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["OUTCOMES", "needs_look", "summary"]

OUTCOMES = ("refused", "opened", "loaded", "generated", "too long", "crashed")
_MOST_EXAMPLES = 3

Line = Mapping[str, Any]


def needs_look(line: Line) -> bool:
    """Whether a case found something."""
    return bool(line["escapes"]) or line["reached"] == "too long"


def summary(lines: Sequence[Line], *, seed: int, workers: int) -> dict[str, Any]:
    """Counts, times and findings of a run.

    Args:
        lines: The workers' lines; the last one of a case holds, the earlier ones say what has been mended since.
        seed: Of the run.
        workers: Processes at once.
    """
    last = {line["case"]: line for line in lines}
    mended = [line for line in lines if needs_look(line) and not needs_look(last[line["case"]])]
    return {
        "seed": seed,
        "cases": len(last),
        "workers": workers,
        "all_seconds": round(sum(line["seconds"] for line in last.values()), 1),
        "all_cpu": round(sum(line["cpu"] for line in last.values()), 1),
        "reached": {name: sum(line["reached"] == name for line in last.values()) for name in OUTCOMES},
        "changed": dict(Counter(_changed(line["what"]) for line in last.values()).most_common()),
        "seconds": _spread([line["seconds"] for line in last.values()]),
        "cpu": _spread([line["cpu"] for line in last.values()]),
        "grown_mb": max((line["grown_mb"] for line in last.values()), default=0.0),
        "peak_mb": max((line["peak_mb"] for line in last.values()), default=0.0),
        "findings": _findings(last.values()),
        "mended": _findings(mended),
    }


def _changed(what: str) -> str:
    """The file that a case changed; of two the first."""
    source, _, rest = what.partition(": ")
    if not rest:
        return "unknown, the case was stopped"
    return source if source in ("gguf", "safetensors") else rest.partition(";")[0].partition(":")[0]


def _findings(lines: Iterable[Line]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if line["reached"] == "too long":
            found.setdefault(("any", "too long", ""), []).append({**line, "message": ""})
        for escape in line["escapes"]:
            key = (escape["stage"], escape["kind"], escape["place"])
            found.setdefault(key, []).append({**line, "message": escape["message"]})
    return [
        {
            "stage": stage,
            "kind": kind,
            "place": place,
            "count": len(of_one),
            "examples": [
                {"case": line["case"], "what": line["what"], "message": line["message"]}
                for line in of_one[:_MOST_EXAMPLES]
            ],
        }
        for (stage, kind, place), of_one in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    parts = {"median": 0.5, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}
    return {name: ordered[min(int(part * len(ordered)), len(ordered) - 1)] for name, part in parts.items()}
