# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The table as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tools.exporter_table.outcome import Outcome, Run, Verdict

__all__ = ["page"]

_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# What Transformers' exporter makes of every decoder

Whether the graphs that `transformers.exporters` writes give torch's greedy tokens, as they are. Made by
`python -m tools.exporter_table --work DIR`; the numbers are in
[transformers-exporters.json](transformers-exporters.json). How such exports run in this SDK is in
[Beside Transformers' exporters](../transformers-exporters.md).

Each network is tiny and random, in float32. `OnnxExporter` exports it with `OnnxConfig(dynamic=True)`, everything else
left at its default, from a sample of two rows of five tokens, one of them padded. The graph then takes three rows of
eleven tokens and 23 steps more, so that no size is one that was traced. ONNX Runtime runs it, and so do the operators
of our reference backend, which share no code with it. Torch decodes the same rows without any cache. Each step is fed
torch's token, so the first other token is where greedy decoding would have left torch's way.

"decode" is the graph with `multi_token_decode=True`, which takes the prompt too. Where it is not right, the two graphs
of the default export are judged instead: "prefill, decode".
"""
_SAID: Mapping[Verdict, str] = {
    "equal": "torch's tokens on both",
    "near tie": "another token where rounding decides; nobody's fault",
    "network": "torch's tokens with its own cache; without one, which is the reference, torch gives others",
    "producer": "the same wrong result on both, or no run on either: the exported graph is wrong",
    "runtime": "wrong, or no run, on one of the two only",
    "undecided": "wrong on both in different ways, or wrong on one where the other cannot run it",
    "fails": "no export, for the reason given",
    "not tried": "torch has no tiny network of that name that decodes",
}
_FAULT: Mapping[Verdict, str] = {
    "near tie": "nobody",
    "network": "torch",
    "producer": "producer",
    "runtime": "runtime",
    "undecided": "open",
}


def page(versions: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """The page's text."""
    tried = [outcome for outcome in outcomes if outcome.verdict != "not tried"]
    counts = Counter(outcome.verdict for outcome in tried)
    lines = [_HEAD, "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".", ""]
    lines += [f"Of {len(tried)} architectures:", "", "| Verdict | architectures | what it says |", "|---|---|---|"]
    lines += [f"| {verdict} | {counts[verdict]} | {said} |" for verdict, said in _SAID.items() if counts[verdict]]
    ours = [outcome for outcome in tried if outcome.runs and not outcome.ours]
    exported = [outcome for outcome in tried if outcome.runs]
    lines += [
        "",
        f"Opened by this SDK (`from_exported`, ONNX Runtime), {len(ours)} of the {len(exported)} exports give torch's "
        "tokens in a ragged batch of three prompts of unequal length.",
        "",
        "| Architecture | network | graphs | tokens | ONNX Runtime | NumPy | at fault | ragged, in this SDK |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(outcome) for outcome in tried]
    lines += ["", "A number is the largest difference of a logit, as a part of the largest logit of its step.", ""]
    if any(outcome.reason for outcome in tried):
        lines += ["## Why", ""]
        lines += [f"- {o.name} ({o.verdict}): {_plain(o.reason)}" for o in tried if o.reason]
    refused = [outcome for outcome in exported if outcome.ours]
    if refused:
        lines += ["", "## What this SDK does not open", ""]
        lines += [f"- {outcome.name}: {_plain(outcome.ours)}" for outcome in refused]
    untried = [outcome for outcome in outcomes if outcome.verdict == "not tried"]
    if untried:
        lines += ["", "## Not tried", ""]
        lines += [f"- {outcome.name}: {_plain(outcome.reason)}" for outcome in untried]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> str:
    fault = _FAULT.get(outcome.verdict, "")
    tokens = {"equal": "equal", "fails": "no export"}.get(outcome.verdict, _first(outcome))
    ours = "" if not outcome.runs else "no" if outcome.ours else "equal"
    cells = [_cell(outcome.runs.get(runtime)) for runtime in ("ort", "numpy")]
    return f"| {' | '.join([outcome.name, outcome.network, outcome.parts, tokens, *cells, fault, ours])} |"


def _first(outcome: Outcome) -> str:
    """The first token that is another."""
    found = [run.first_wrong for run in outcome.runs.values() if run.first_wrong is not None]
    return f"token {min(found) + 1} of {outcome.tokens}" if found else "do not run"


def _cell(run: Run | None) -> str:
    if run is None:
        return ""
    if run.problem:
        return "does not run"
    return "no numbers" if run.difference < 0 else f"{run.difference:.0e}"


def _plain(text: str) -> str:
    """One line that Markdown leaves alone."""
    for sign in "\\`*_<>|[]":
        text = text.replace(sign, f"\\{sign}")
    return text
