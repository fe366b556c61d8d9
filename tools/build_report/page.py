# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from genai_iface.build._build import METHODS
from genai_iface.build._families import FAMILIES, STATE_FAMILIES
from tools.build_report.case import REWRITES, Outcome

__all__ = ["page"]

_Case: TypeAlias = tuple[str, str, str]

_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# Families and methods

Which decoder families `genai-iface build` takes to a standard model (opset 24, `TensorScatter`, `Attention` with
`nonpad_kv_seqlen`; opset 27 with `CausalConvWithState` and `LinearAttention` where states are kept), and by which
[method](../build.md). Made by `python -m tools.build_report`; the numbers are in [families.json](families.json).

Each family is a tiny random checkpoint. A number is the largest difference of a logit from torch, as a part of the
largest logit of its step, over a ragged batch of three prompts and the greedy tokens after them, on the reference
backend. It stands there only if the result was verified: within 1e-4 in float32 and 2e-2 in float16, with torch's
greedy token in every step (in float16 but for near ties). Prompts and tokens together are longer than each
family's sliding window.

In float16 a router of experts may meet a near tie: another rounding then takes another expert, and the logits differ by
more than rounding (phimoe, granitemoe, lfm2_moe: torch in float16 differs from torch in float32 on the same weights by
0.34, 0.36 and 0.17 of the largest logit there; kimi_linear: where it differs, the scores of the last expert taken and
the first left are 1e-4 apart, below one rounding of float16 and the least of all positions, and torch in float16
happens to take the same). Such a model is refused like any other that differs.
"""


def page(versions: Mapping[str, str], outcomes: Sequence[Outcome], lowering: Mapping[str, str]) -> str:
    """The page's text.

    Args:
        versions: Of the packages that the models were built and compared with.
        outcomes: The cases.
        lowering: Of the packages with which the models were built whose lowering was looked at.
    """
    by_case: dict[_Case, Outcome] = {(one.family, one.method, one.dtype): one for one in outcomes}
    present = {outcome.family for outcome in outcomes}
    families = [name for name in FAMILIES if name in present and name not in STATE_FAMILIES]
    with_states = [name for name in STATE_FAMILIES if name in present]
    every = [*families, *with_states]
    built = [name for name in every if any(o.verified for o in outcomes if o.family == name)]
    half = [o.family for o in outcomes if o.verified and o.dtype == "float16"]
    on_ort = [o for o in outcomes if o.verified and not o.ort_problem]
    verified = [o for o in outcomes if o.verified]
    lines = [_HEAD, "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".", ""]
    lines += [
        f"Of {len(every)} families {len(built)} have a verified standard model in float32 or float16; in float16, "
        f"by the first method, {len(half)}. Of the {len(verified)} verified models {len(on_ort)} agree with torch on "
        "ONNX Runtime too.",
        "",
        "| Family | " + " | ".join(METHODS) + " | export, float16 | lowered | what is special |",
        "|---|" + "---|" * (len(METHODS) + 3),
    ]
    for name in families:
        cells = [_cell(by_case.get((name, method, "float32"))) for method in METHODS]
        cells.append(_cell(by_case.get((name, "export", "float16"))))
        cells.append(_short(_first(name, by_case)))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {'; '.join(FAMILIES[name].notes)} |")
    lines += _states(with_states, by_case, lowering)
    lines += ["", "A dash: no verified result. An asterisk: ONNX Runtime does not agree, see below.", ""]
    lines += ["*lowered*: whether the ONNX Runtime backend computes attention by its own kernel; more below.", ""]
    lines += ["## What the graphs hold", ""]
    lines += ["Nodes, and standard operators among them, of the float32 model by the first method that verifies.", ""]
    lines += ["| Family | method | nodes | Attention | RMSNormalization | LayerNormalization | RotaryEmbedding |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name in every:
        first = _first(name, by_case)
        if first is not None:
            counts = first.operators
            lines.append(
                f"| {name} | {first.method} | {first.nodes} | {counts['Attention']} | {counts['RMSNormalization']} | "
                f"{counts['LayerNormalization']} | {counts['RotaryEmbedding']} |"
            )
    lines += _lowering(every, by_case, lowering)
    lines += ["", "## Why not", ""]
    said: set[tuple[str, str]] = set()
    for outcome in outcomes:
        text = outcome.problem or (outcome.ort_problem and f"on ONNX Runtime: {outcome.ort_problem}")
        if text and (outcome.family, text) not in said:  # one reason may end all methods
            said.add((outcome.family, text))
            lines.append(f"- {outcome.family}, {outcome.method}, {outcome.dtype}: {_plain(text)}")
    return "\n".join(lines) + "\n"


_LOWERING = """
## What ONNX Runtime runs

Of the same models, what the ONNX Runtime backend [lowered](../lowering.md) at load: attention with its cache writes to
GroupQueryAttention (how many layers have the rotation inside, take queries, keys and values as one product gives them,
have a window or a soft cap), sums with the norm after them, and the operators that keep states. Where attention stays
as it is on disk, the reason. ONNX Runtime fuses a sum and a LayerNormalization by itself. Built and loaded with
{versions}.

| Family | attention | sums and norms | states |
|---|---|---|---|"""


_STATES = """
## Families that keep states

Decoders with short convolutions, linear attention or state spaces, with attention or without. Torch runs **without**
its cache here, all tokens anew for each one; after the greedy tokens a second chunk follows, of another length in each
row. Only the method "export" writes states. *State*: what the model keeps of a row, however long it is, in the tiny
model's bytes; *operators*: how many CausalConvWithState and LinearAttention. Built with {versions}.

| Family | export | export, float16 | operators | state | lowered | what is special |
|---|---|---|---|---|---|---|"""


def _states(families: Sequence[str], by_case: Mapping[_Case, Outcome], versions: Mapping[str, str]) -> list[str]:
    lines = _STATES.format(versions=_named(versions)).splitlines()
    for name in families:
        first = by_case.get((name, "export", "float32"))
        operators, state, lowered = "-", "-", "-"
        if first is not None and first.verified:
            operators = f"{first.operators['CausalConvWithState']} and {first.operators['LinearAttention']}"
            state = str(first.bytes_per_row)
            lowered = "yes" if "state operators run" in first.lowered.get("states", "") else "no"
        cells = [_cell(by_case.get((name, "export", dtype))) for dtype in ("float32", "float16")]
        notes = "; ".join(STATE_FAMILIES[name].notes)
        lines.append(f"| {name} | {' | '.join((*cells, operators, state, lowered, notes))} |")
    return lines


def _lowering(families: Sequence[str], by_case: Mapping[_Case, Outcome], versions: Mapping[str, str]) -> list[str]:
    lines = _LOWERING.format(versions=_named(versions)).splitlines()
    for name in families:
        first = _first(name, by_case)
        if first is not None and first.lowered:
            said = {rewrite: _said(first.lowered.get(rewrite, "")) for rewrite in REWRITES}
            if not first.operators["Attention"]:
                said[REWRITES[0]] = "-"
            lines.append(f"| {name} | {' | '.join(said.values())} |")
    return lines


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in ("transformers", "torch", "onnxruntime"))


def _first(name: str, by_case: Mapping[_Case, Outcome]) -> Outcome | None:
    """The float32 model of the first method that verifies."""
    found = (by_case.get((name, method, "float32")) for method in METHODS)
    return next((outcome for outcome in found if outcome is not None and outcome.verified), None)


def _short(outcome: Outcome | None) -> str:
    if outcome is None or not outcome.lowered:
        return "-"
    return "yes" if outcome.lowered[REWRITES[0]].startswith("applied") else "no"


def _said(note: str) -> str:
    """What a note says was done, or "no" and why."""
    applied, _, reason = note.partition(" (")
    if not applied.endswith("applied"):
        return _plain(note) or "-"
    return _plain(reason.removesuffix(")") if applied == "applied" else f"no: {reason.removesuffix(')')}")


def _cell(outcome: Outcome | None) -> str:
    if outcome is None or not outcome.verified:
        return "-"
    return f"{outcome.difference['numpy']:.0e}" + ("*" if outcome.ort_problem else "")


def _plain(text: str) -> str:
    """One line that Markdown leaves alone."""
    line = " ".join(text.split())
    _, _, after = line.partition(" to a standard model (")
    line = (after.removesuffix(")").partition(": ")[2] or line)[:400]
    return "".join(f"\\{char}" if char in "<>*_`[]|" else char for char in line)
