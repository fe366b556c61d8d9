# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report: what ran, how long it took, what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tools.robustness.sources import ONNX_SOURCES

__all__ = ["page"]

_MEANING = {
    "refused": "`open_folder`, or what opens a checkpoint, raised a typed error",
    "opened": "opened; the settings, the runtime or what loads weights refused it with a typed error",
    "loaded": "loaded; the step or the arguments were refused with a typed error, or it was a checkpoint, and whole",
    "generated": "text came out",
    "too long": "stopped by the limit of time",
    "crashed": "the process ended",
}


def page(data: Mapping[str, Any]) -> str:
    """The report as Markdown.

    Args:
        data: A summary with "versions" and "limits".
    """
    limits = data["limits"]
    lines = [
        "<!--",
        # REUSE-IgnoreStart
        "SPDX-FileCopyrightText: The ONNX generative-AI interface authors",
        "SPDX-License-Identifier: Apache-2.0",
        # REUSE-IgnoreEnd
        "-->",
        "# Robustness",
        "",
        "Model folders, changed at random and used: opened, their texts read, loaded, two tokens generated; and",
        "checkpoints, changed at random, opened and loaded as `build` does. Whatever is in them, either it works or a",
        f"`GenAIError` says what is wrong. Made by `python -m tools.robustness --cases {data['cases']} --seed "
        f"{data['seed']} --write`.",
        "",
        f"**{data['cases']:,} cases**, {sum(item['count'] for item in data['findings'])} findings, in "
        f"{data['all_seconds'] / 60:.0f} minutes of {data['workers']} worker(s), {data['all_cpu'] / 60:.0f} of them on "
        "a processor. " + ", ".join(f"{name} {number}" for name, number in data["versions"].items()) + ".",
        "",
        "| Outcome | Cases | |",
        "|---|---|---|",
        *(f"| {name} | {data['reached'][name]:,} | {meaning} |" for name, meaning in _MEANING.items()),
        "",
        "| Time of a case | median | 99 % below | 99.9 % below | longest |",
        "|---|---|---|---|---|",
        *(_times(name, data[key]) for name, key in (("seconds", "seconds"), ("seconds of a processor", "cpu"))),
        "",
        f"A case may take {limits['seconds']:.0f} seconds of a processor. Its process had at most "
        f"{data['peak_mb']:.0f} MB of memory over the whole run, grew by at most {data['grown_mb']:.0f} MB in one "
        f"case, and may have an address space of {limits['gigabytes']:.0f} GB. PyTorch, which reads checkpoints, "
        "is part of that.",
        "",
        "## What is changed",
        "",
        f"Cases start from {len(ONNX_SOURCES)} tiny folders ({', '.join(ONNX_SOURCES)}), one in ten from a "
        "checkpoint, and change one or two files:",
        "",
        "- the graph, by its protobuf form: any field of any message; nodes dropped, doubled, moved, bypassed;",
        "  operators, domains, opset imports; edges; attributes; types and dimensions; weights; functions",
        "  that call themselves;",
        "- external data: the file cut or doubled, locations, offsets, lengths;",
        "- JSON files: fields with values of another type or size, lone surrogates, deep nesting, anything in the",
        "  tree;",
        "- chat templates made of pieces of Jinja; stretches of bytes of any file;",
        "- checkpoints: fields of a GGUF file's header, headers of safetensors files, `config.json`, bytes.",
        "",
        "| Changed first | Cases |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in data["changed"].items()),
        "",
        "One case in seven that opens is run by ONNX Runtime, the others by the NumPy backend. These cases are not",
        "guided by coverage; `tests/robustness/test_guided.py` looks for more with the same changes.",
        "",
        "## Findings",
        "",
        *_table(data["findings"]),
    ]
    if data["mended"]:
        lines += ["", "## Found in this run, and mended", "", *_table(data["mended"])]
    return "\n".join([*lines, ""])


def _times(name: str, spread: Mapping[str, float]) -> str:
    return f"| {name} | " + " | ".join(f"{spread[part]:.3f}" for part in ("median", "p99", "p99.9", "longest")) + " |"


def _table(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = []
    for item in findings:
        example = item["examples"][0]
        said = example["message"].replace("|", "/").replace("\n", " ")[:120]
        rows.append(
            f"| {item['stage']} | {item['kind']} | {item['place']} | {item['count']} | case {example['case']}: {said} |"
        )
    return ["| Stage | What | Where | Cases | Example |", "|---|---|---|---|---|", *rows] if rows else ["None."]
