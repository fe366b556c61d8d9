# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whose fault a wrong token is, and how the table says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.exporter_table.outcome import Outcome, Run, judged, save
from tools.exporter_table.page import page

RIGHT, WRONG, TIE = Run(difference=1e-6), Run(3, 0.2, 0.1), Run(3, 1e-6, 1e-6)
BROKEN = Run(problem="Conv is unknown")


@pytest.mark.parametrize(
    ("ort", "numpy", "apart", "verdict"),
    [
        (RIGHT, RIGHT, 0.0, "equal"),
        (TIE, RIGHT, 1e-6, "near tie"),
        (TIE, TIE, 0.0, "near tie"),
        (WRONG, WRONG, 1e-6, "producer"),
        (WRONG, WRONG, 0.3, "undecided"),
        (WRONG, RIGHT, 0.2, "runtime"),
        (RIGHT, WRONG, 0.2, "runtime"),
        (WRONG, TIE, 0.2, "runtime"),
        (BROKEN, BROKEN, float("inf"), "producer"),
        (RIGHT, BROKEN, float("inf"), "runtime"),
        (WRONG, BROKEN, float("inf"), "undecided"),
        (Run(3, -1.0, -1.0), Run(3, -1.0, -1.0), 0.0, "producer"),  # no numbers
        (Run(3, 1e-6, 1e-2), RIGHT, 1e-6, "runtime"),  # a difference too small for that token
    ],
)
def test_whose_fault_it_is(ort: Run, numpy: Run, apart: float, verdict: str) -> None:
    assert judged({"ort": ort, "numpy": numpy}, apart=apart)[0] == verdict


def test_large_differences_are_named_where_tokens_are_equal() -> None:
    _, reason = judged({"ort": Run(difference=0.02), "numpy": RIGHT}, apart=0.02)
    assert "2e-02" in reason


def test_outcomes_survive_and_are_counted(tmp_path: Path) -> None:
    runs = {"ort": WRONG, "numpy": WRONG}
    outcomes = [
        Outcome("llama", "LlamaForCausalLM", "equal", "", 24, {"ort": RIGHT, "numpy": RIGHT}, "decode", True),
        Outcome("odd", "OddForCausalLM", "producer", "the same", 24, runs, "prefill, decode", True, "differs"),
        Outcome("none", "NoneForCausalLM", "fails", "a_b is *wrong*", 24),
        Outcome("half", reason="it is half of something"),
    ]
    for outcome in outcomes:
        save(outcome, tmp_path / f"{outcome.name}.json")
    back = [Outcome.from_dict(json.loads((tmp_path / f"{outcome.name}.json").read_text())) for outcome in outcomes]
    assert back == outcomes
    text = page({"torch": "2"}, back)
    assert "Of 3 architectures" in text
    assert "| llama | LlamaForCausalLM | decode | equal | 1e-06 | 1e-06 |  | equal |" in text
    assert "| odd | OddForCausalLM | prefill, decode | token 4 of 24 | 2e-01 | 2e-01 | producer | no |" in text
    assert r"none (fails): a\_b is \*wrong\*" in text
    assert "1 of the 2 exports" in text
    assert "half: it is half of something" in text.split("## Not tried")[1]
