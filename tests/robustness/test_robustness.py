# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Folders changed at random: a GenAIError or an answer. A few here; ``python -m tools.robustness`` runs any number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError
from tools.robustness import case as cases
from tools.robustness.__main__ import main
from tools.robustness.case import run_case
from tools.robustness.page import page, summary
from tools.robustness.sources import ONNX_SOURCES, write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sources(tmp_path_factory.mktemp("sources"))


def test_what_cases_start_from_works(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "change_folder", lambda folder, random: "nothing")
    assert set(sources) == set(ONNX_SOURCES)
    for name, folder in sources.items():
        _, reached, escapes = run_case({name: folder}, tmp_path, 0, 0)
        # The NumPy backend has no contrib attention.
        assert (reached, escapes) == ("opened" if name == "shared" else "generated", []), name


@pytest.mark.filterwarnings("ignore")
def test_a_hundred_cases(sources: dict[str, Path], tmp_path: Path) -> None:
    results = [run_case(sources, tmp_path, 2, number) for number in range(100)]
    assert [(what, escapes) for what, _, escapes in results if escapes] == []
    reached = Counter(reached for _, reached, _ in results)
    # Changes that are all refused, or all harmless, would find nothing.
    assert reached["refused"] > 10 and reached["generated"] > 10, reached


def test_a_case_is_decided_by_its_number(sources: dict[str, Path], tmp_path: Path) -> None:
    whats = [run_case(sources, tmp_path / str(turn), 3, 5)[0] for turn in range(2)]
    assert whats[0] == whats[1]


def test_an_escape_is_found(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> Any:
        return {}["no such key"]

    monkeypatch.setattr(cases, "open_folder", broken)
    _, reached, (escape,) = run_case(sources, tmp_path, 0, 0)
    assert (reached, escape.stage, escape.kind) == ("refused", "open", "KeyError")


def test_a_run_and_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "6", "--workers", "2", "--first", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == 6 and found["findings"] == []


def test_what_the_report_says() -> None:
    line = {"what": "x: y", "seconds": 1.0, "grown_mb": 0.0, "peak_mb": 5.0}
    escape = {"stage": "open", "kind": "KeyError", "place": "a.py:1 f", "message": "a | b"}
    found = summary(
        [
            {**line, "case": 0, "reached": "refused", "escapes": [escape]},
            {**line, "case": 1, "reached": "generated", "escapes": []},
            {**line, "case": 2, "reached": "too long", "escapes": []},
        ],
        seed=1,
        wall_seconds=60,
        workers=1,
    )
    assert [(item["kind"], item["count"]) for item in found["findings"]] == [("KeyError", 1), ("too long", 1)]
    text = page({**found, "versions": {"onnx": "1"}, "limits": {"seconds": 20.0, "gigabytes": 8.0}})
    assert "**3 cases**, 2 findings" in text and "| open | KeyError | a.py:1 f | 1 | case 0: a / b |" in text


@pytest.mark.slow
def test_five_thousand_cases() -> None:
    assert main(["--cases", "5000", "--seed", "5"]) == 0


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_and_gguf_files(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tools.robustness.checkpoints import run_checkpoint_case, write_checkpoints

    made = write_checkpoints(tmp_path / "sources")
    results = [run_checkpoint_case(made, tmp_path, 1, number) for number in range(100)]
    assert [(what, escapes) for what, _, escapes in results if escapes] == []
    assert {reached for _, reached, _ in results} >= {"opened", "loaded"}


@pytest.mark.parity
@pytest.mark.parametrize("field", ["head_dim", "vocab_size", "intermediate_size", "num_hidden_layers", "hidden_size"])
def test_a_configuration_larger_than_its_weights(tmp_path: Path, field: str) -> None:
    from genai_iface.build.checkpoint import load_network, open_checkpoint
    from tests.parity.checkpoints import make_checkpoint

    make_checkpoint("llama", tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    assert load_network(open_checkpoint(path.parent), "float32") is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), field: 8_000_000}))
    with pytest.raises(InvalidInputError, match=f"{field}=8000000"):
        load_network(open_checkpoint(path.parent), "float32")
