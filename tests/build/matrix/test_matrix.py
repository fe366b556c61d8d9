# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The equivalence matrix end to end: a tiny checkpoint, its graphs, runtimes, torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genai_iface.cli.main import main

SCHEMA = Path(__file__).parents[3] / "docs/reference/json-output.schema.json"

pytestmark = [pytest.mark.parity, pytest.mark.slow]


def matrix(name: str, path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    from tools.equivalence.families import write_checkpoint

    write_checkpoint(name, path / name)
    capsys.readouterr()
    code = main(["verify", str(path / name), "--matrix", "--work", str(path / "work"), "--json", *arguments])
    found = json.loads(capsys.readouterr().out)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(found)
    assert found["agrees"] is (code == 0)
    return code, {row["producer"]: row for row in found["rows"]}


def verdicts(row: dict) -> dict[str, str]:
    return {cell["runtime"]: cell["verdict"] for cell in row["cells"]}


def test_graphs_of_a_llama_are_equal_and_a_second_run_makes_nothing_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = ["--producers", "build export", "convert to concat", "--runtimes", "numpy", "ort", "transformers"]
    code, rows = matrix("llama", tmp_path, capsys, *tools)
    assert code == 0
    assert verdicts(rows["checkpoint"]) == {
        "numpy": "not applicable",
        "ort": "not applicable",
        "transformers": "equal",
    }
    for producer in ("build export", "convert to concat"):
        assert verdicts(rows[producer]) == {"numpy": "equal", "ort": "equal", "transformers": "not applicable"}
        assert rows[producer]["fault"] == {"who": "nobody", "reason": ""}
        assert all(cell["compared"] == 99 for cell in rows[producer]["cells"] if cell["verdict"] == "equal")
    assert [rows[name]["form"].partition(" ")[0] for name in ("build export", "convert to concat")] == [
        "scatter",
        "concat",
    ]
    assert matrix("llama", tmp_path, capsys, *tools) == (0, rows)


def test_a_producer_that_leaves_out_a_window_is_at_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What mobius-onnx 0.1.0 does with Mistral, and warns of."""
    code, rows = matrix(
        "mistral", tmp_path, capsys, "--producers", "mobius static", "build export", "--runtimes", "numpy", "ort"
    )
    assert code == 1
    assert rows["mobius static"]["fault"]["who"] == "producer"
    assert set(verdicts(rows["mobius static"]).values()) <= {"differs", "inexact"}
    assert set(verdicts(rows["build export"]).values()) == {"equal"}
