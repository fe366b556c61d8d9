# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tools.sweep_decoders.kinds import KINDS

__all__ = ["page", "write_report"]

_Row: TypeAlias = Mapping[str, Any]
_MINUTE = 60
_REWRITES = ("group-query-attention", "skip-norm", "states")

_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# Families

What becomes of every model type that Transformers can generate with (all names of `AutoModelForCausalLM`, and a few
variants) when `genai-iface build` makes a standard model of it: by which [method](../build.md), what the ONNX Runtime
backend makes of its attention, or why there is none. Made by `python -m tools.sweep_decoders`; all numbers are in
[families.json](families.json).

Each type is a tiny checkpoint with random weights; its configuration is made from the names that the class gives to
its sizes. Lengths at which a network computes otherwise (windows, chunks, floors of a scaling, limits of rotary
frequencies) are so short that the prompts pass them. A number is the largest difference of a logit from torch, as a
part of the largest logit of its step, on the reference backend and on ONNX Runtime, over a ragged batch of three
prompts and the greedy tokens after them. A type is *verified* if both are within 1e-4 in float32 (2e-2 in float16) with
torch's greedy token in every step (in float16 but for near ties), and if in float32 a ragged batch of prompts of 11
and 70 tokens gives the tokens of `generate` on both.

The last column is the float32 model after `genai-iface quantize` with int8 weights in blocks of 32, on NumPy and on
ONNX Runtime (which rounds no activations here): how far its logits are from those of torch with floats.
Where experts or an index are chosen by scores, rounded weights of a random network choose others, and the difference is
as large as the logits.

In float16 a router of experts may meet a near tie: another rounding then takes another expert, and the logits differ by
more than rounding (lfm2_moe: torch in float16 differs from torch in float32 on the same weights by 0.17 of the largest
logit; kimi_linear: where it differs, the scores of the last expert that is taken and the first that is not are 1e-4
apart, below one rounding of float16). Such a model is refused like any other that differs.
"""


def write_report(rows: Iterable[_Row], folder: Path, *, missing: Sequence[str] = ()) -> None:
    """Writes families.md and families.json.

    Args:
        rows: One for each model type.
        folder: Where to.
        missing: Model types that have no row yet.
    """
    every = sorted(rows, key=lambda row: (list(KINDS).index(row["kind"]), row["name"]))
    (folder / "families.json").write_text(json.dumps({"rows": every}, indent=1) + "\n", encoding="utf-8")
    (folder / "families.md").write_text(page(every, missing=missing), encoding="utf-8")


def page(rows: Sequence[_Row], *, missing: Sequence[str] = ()) -> str:
    """The page's text."""
    lines = [
        _HEAD,
        "| Kind | verified | refused for a reason | crashed |",
        "|---|---|---|---|",
    ]
    for kind, meaning in KINDS.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            crashed = sum(bool(row["float32"].get("crashed")) for row in of_kind)
            verified = sum(bool(row["float32"]["verified"]) for row in of_kind)
            refused = len(of_kind) - verified - crashed
            lines.append(f"| {meaning} | {verified} of {len(of_kind)} | {refused} | {crashed} |")
    if missing:
        lines += ["", f"{len(missing)} have not been run yet, and are in no count: {', '.join(sorted(missing))}."]
    for kind, meaning in KINDS.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        lines += _section(meaning, of_kind) if of_kind else []
    return "\n".join([*lines, *_lowered(rows), *_versions(rows), *_time(rows)]) + "\n"


def _versions(rows: Sequence[_Row]) -> list[str]:
    """With what the rows were made, most of them first."""
    made = Counter(
        (row["code"], ", ".join(f"{name} {number}" for name, number in row["versions"].items())) for row in rows
    )
    lines = ["", "## With what the rows were made", ""]
    return lines + [f"- {count} by the code of {code}: {versions}." for (code, versions), count in made.most_common()]


def _time(rows: Sequence[_Row]) -> list[str]:
    """How long a sweep takes: the sum of what the rows took, each when it was made."""
    timed = [row["seconds"] for row in rows if row["seconds"]]
    minutes = sum(timed) / _MINUTE
    complete = [row["seconds"] for row in rows if row["seconds"] and row["float16"] and row["int8"]]
    lines = [f"{len(timed)} rows took {minutes:.0f} minutes of processor time in sum, most of them {_middle(timed)} s."]
    if complete:
        lines.append(f"{len(complete)} of them have all three columns of types; those took {_middle(complete)} s.")
    if len(timed) < len(rows):
        lines.append(f"{len(rows) - len(timed)} do not say what they took.")
    return ["", " ".join(lines)]


def _middle(seconds: Sequence[float]) -> str:
    """The middle half of some times."""
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 4]:.0f} to {ordered[-1 - len(ordered) // 4]:.0f}"


def _section(meaning: str, rows: Sequence[_Row]) -> list[str]:
    lines = ["", f"## {meaning.capitalize()}", ""]
    lines += ["| Type | method | NumPy | ONNX Runtime | lowered | float16 | int8 |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        single = row["float32"]
        if single["verified"]:
            numbers = [f"{single['difference'][backend]:.0e}" for backend in ("numpy", "ort")]
            cells = [single["method"], *numbers, _short(single), _half(row["float16"]), _integers(row["int8"])]
        else:
            cells = ["-"] * 6
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    problems = [(row["name"], row["float32"]) for row in rows if not row["float32"]["verified"]]
    problems += [
        (f"{row['name']}, float16", row["float16"])
        for row in rows
        if row["float16"] is not None and not row["float16"]["verified"]
    ]
    problems += [(f"{row['name']}, int8", row["int8"]) for row in rows if row["int8"] and row["int8"]["problem"]]
    if problems:
        lines += ["", "Why not:", ""]
        lines += [f"- {name}: {'(crash) ' if half.get('crashed') else ''}{_plain(half)}" for name, half in problems]
    return lines


def _lowered(rows: Sequence[_Row]) -> list[str]:
    """What ONNX Runtime runs, by type."""
    lines = [
        "",
        "## What ONNX Runtime runs",
        "",
        "What the rewrites of the ONNX Runtime backend do at load with the float32 model, or why they do nothing.",
        "",
        "| Type | attention | skip and norm | states |",
        "|---|---|---|---|",
    ]
    for row in rows:
        notes = row["float32"].get("lowered") or {}
        if row["float32"]["verified"] and notes:
            lines.append(f"| {row['name']} | {' | '.join(_said(notes.get(name, '')) for name in _REWRITES)} |")
    return lines


def _short(half: _Row) -> str:
    note = (half.get("lowered") or {}).get(_REWRITES[0], "")
    return "yes" if note.startswith("applied") else "no" if note else "-"


def _half(half: _Row | None) -> str:
    if half is None:
        return "not run"
    return f"{max(half['difference'].values()):.0e}" if half["verified"] else "no"


def _integers(found: _Row | None) -> str:
    """The differences on both backends."""
    if found is None:
        return "not run"
    return "no" if found["problem"] else " / ".join(f"{found['difference'][name]:.0e}" for name in ("numpy", "ort"))


def _said(note: str) -> str:
    """What a note says was done, or "no" and why."""
    applied, _, reason = note.partition(" (")
    if not applied.endswith("applied"):
        return _escaped(note) or "-"
    return _escaped(reason.removesuffix(")") if applied == "applied" else f"no: {reason.removesuffix(')')}")


def _plain(half: _Row) -> str:
    """The problem in one line, without what every message says."""
    text = str(half["problem"]).replace("No method leads from 'checkpoint' to a standard model:", "")
    return _escaped("; ".join(part.strip() for part in text.removesuffix(" Nothing was written.").splitlines() if part))


def _escaped(text: str) -> str:
    """One line that Markdown leaves alone."""
    line = " ".join(text.split())[:700]
    return "".join(f"\\{char}" if char in "<>*_`[]|" else char for char in line)
