# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface inspect``: the signature as tables and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from genai_iface.cli.main import build_parser, main
from tests.models import write_folder


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "model", mode=("linear", "circular"), capacity=(None, 16))
    assert main(["inspect", str(folder)]) == 0
    output = capsys.readouterr().out
    for words in (
        "scatter, bnsh, 2 layers, 256 bytes per token",
        "261 ids, with chat template",
        "gives write_indices of the TensorScatter node 'node_present.0.key'",
        "circular  16",
        "float output that is not a cache",
    ):
        assert words in output


def test_equal_layers_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(write_folder(tmp_path / "model", layers=5))])
    output = capsys.readouterr().out
    assert "0-4" in output
    assert "past_key_values.3.key" not in output
    assert "4 more layers follow the same pattern" in output


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "model", style="decomposed", position_ids=True, dtype="float16")
    assert main(["inspect", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["inputs"] == {
        "input_ids": {"name": "input_ids", "dtype": "int64"},
        "position_ids": {"name": "position_ids", "dtype": "int64"},
        "attention_mask": {"name": "attention_mask", "dtype": "int64"},
    }
    assert facts["logits"] == {"name": "logits", "dtype": "float16"}
    assert facts["cache"]["style"] == "concat"
    assert facts["cache"]["layers"][1] == {
        "num_kv_heads": 2,
        "key_head_dim": 8,
        "value_head_dim": 8,
        "dtype": "float16",
        "mode": "linear",
        "capacity": None,
        "bytes_per_token": 64,
    }
    assert facts["tokenizer"] == {"vocab_size": 261, "chat_template": True}
    assert facts["eos_token_ids"] == [257]


def test_without_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    assert main(["inspect", str(folder), "--json"]) == 0
    assert "There is no tokenizer.json" in json.loads(capsys.readouterr().out)["tokenizer"]["error"]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "There is no model.onnx" in captured.err


def test_names_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "model", layers=1)
    model = onnx.load(folder / "model.onnx")
    old, new = "input_ids", "[bold]ids\x1b[31m"
    model.graph.input[0].name = new
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = new if name == old else name
    onnx.save_model(model, folder / "model.onnx")
    assert main(["inspect", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "[bold]ids\N{REPLACEMENT CHARACTER}[31m" in output
    assert "\x1b" not in output


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["inspect", "--help"])
    assert caught.value.code == 0
    assert "genai-iface inspect ./my-model --json" in capsys.readouterr().out


def test_what_a_backend_did_to_the_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_folder(tmp_path / "model", softcap=0.0, quantize="int8"))
    assert main(["inspect", folder, "--backend", "ort", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["load_notes"]
    assert any(note.startswith("group-query-attention: applied") for note in notes)
    assert main(["inspect", folder, "--backend", "ort", "--option", "optimize=none"]) == 0
    assert "group-query-attention: applied" not in capsys.readouterr().out
    assert main(["inspect", folder, "--json"]) == 0
    assert "load_notes" not in json.loads(capsys.readouterr().out)
