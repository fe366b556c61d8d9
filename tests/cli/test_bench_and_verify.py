# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The commands bench and verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import load_model
from genai_iface.cli.commands.verify import StepDifference, compare
from genai_iface.cli.main import main
from tests.models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


def test_bench_prints_medians(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt-tokens", "8", "--new-tokens", "4", "--repeats", "1", "--batch-size", "2", "--json"]
    assert main(["bench", str(folder), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    numbers = printed["backends"]["numpy"]
    model = load_model(folder)
    assert numbers["cache_bytes"] == 2 * 12 * model.spec.cache.bytes_per_token
    # Both sequences get a token in every step.
    assert numbers["decode_tokens_per_second"] * numbers["time_per_output_token"] == pytest.approx(2)
    assert numbers["prefill_tokens_per_second"] > 0


def test_bench_compares(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt-tokens", "4", "--new-tokens", "3", "--repeats", "1", "--compare", "ort"]
    assert main(["bench", str(folder), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "numpy / ort" in printed
    # What was done at load stands below the figures, large pages too.
    assert "ort: group-query-attention: applied (2 layers" in printed
    assert "ort: huge pages: " in printed


def test_bench_refuses_nothing_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", str(folder), "--repeats", "0"])
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_verify_agrees(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--backend", "ort", "--against", "numpy", "--steps", "8"]) == 0
    printed = capsys.readouterr().out
    assert "27 comparisons" in printed
    assert "verdict: they agree" in printed


def test_rounded_activations_have_a_tolerance_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    # The embedded model has int8 weights.
    assert main(["verify", "--backend", "ort", "--steps", "4"]) == 0
    printed = capsys.readouterr().out
    assert "tolerance 5e-02: weights in int4 or int8" in printed
    option = printed.split("--option '")[1].split("'")[0]
    assert main(["verify", "--backend", "ort", "--steps", "4", "--option", option]) == 0
    printed = capsys.readouterr().out
    assert "tolerance 1e-04\n" in printed
    assert "full precision" not in printed


@pytest.mark.parametrize(("difference", "expected"), [(1e-5, True), (3e31, False), (float("inf"), False)])
def test_only_a_legal_difference_makes_a_near_tie(difference: float, expected: bool) -> None:
    step = StepDifference(row=0, step=0, difference=difference, token=1, reference_token=2, margin=1e-6)
    assert step.diverges
    assert step.is_near_tie(1e-4) is expected


def test_verify_finds_other_weights(folder: Path, tmp_path: Path) -> None:
    other = load_model(write_folder(tmp_path / "other", seed=1))
    steps = compare(other, load_model(folder), steps=4, prompt_tokens=6, batch_size=2)
    assert len(steps) == 10
    assert max(step.difference for step in steps) > 0.1
    assert any(step.diverges for step in steps)


class OneBadStep:
    """Passes everything on; from the third step on, two logits are swapped."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, *arguments: Any, **options: Any) -> np.ndarray:
        logits: np.ndarray = self.model.forward(*arguments, **options)
        self.steps += 1
        if self.steps > 2:
            order = logits[0, 0].argsort()
            logits[0, 0, order[[-1, -2]]] = logits[0, 0, order[[-2, -1]]]
        return logits


def test_verify_names_the_first_different_token(folder: Path) -> None:
    reference = load_model(folder)
    steps = compare(OneBadStep(reference), reference, steps=4, prompt_tokens=6, batch_size=2)  # type: ignore[arg-type]
    first = next(step for step in steps if step.diverges)
    assert (first.row, first.step) == (0, 1 + 1)
    assert first.difference == pytest.approx(first.margin)
    assert all(step.difference == 0 for step in steps if step.row == 1)


class NotANumber(OneBadStep):
    """Its logits are NaN from the third step on."""

    def forward(self, *arguments: Any, **options: Any) -> np.ndarray:
        self.steps += 1
        logits: np.ndarray = self.model.forward(*arguments, **options)
        return logits * np.nan if self.steps > 2 else logits


def test_logits_that_are_no_numbers_differ(folder: Path) -> None:
    reference = load_model(folder)
    steps = compare(NotANumber(reference), NotANumber(reference), steps=4, prompt_tokens=6, batch_size=2)  # type: ignore[arg-type]
    assert max(step.difference for step in steps) == float("inf")
