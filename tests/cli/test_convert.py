# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface convert``: what it prints, what it writes, and that it writes all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface import load_model
from genai_iface.cli.main import main
from genai_iface.errors import BackendError
from genai_iface.folder import open_folder
from genai_iface.transform.convert import folder as module
from tests.models import ModelOptions, build_model, write_folder
from tests.numpy_backend.test_contrib_graphs import contrib_operators, quantized


def logits(folder: Path) -> np.ndarray:
    model = load_model(folder)
    cache = model.create_cache(batch_size=2, capacity=16)
    return model.forward(np.array([[5, 6, 7], [8, 0, 0]]), cache, counts=np.array([3, 1]))


def test_says_what_was_found_and_writes_a_whole_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", style="decomposed", position_ids=True)
    (source / "genai_config.json").write_text("{}")
    out = tmp_path / "deep" / "out"
    assert main(["convert", str(source), str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 layers:\n  0-1: Concat, MatMul and Softmax, mask causal\n" in said
    assert "removed inputs: position_ids, attention_mask\n" in said
    assert "added inputs: write_indices, nonpad_kv_seqlen\n" in said
    assert "largest difference of a logit: " in said
    assert said.endswith(f"written to {out}\n")
    opened = open_folder(out)
    assert opened.spec.cache.style == "scatter"
    expected = {"chat_template.jinja", "config.json", "generation_config.json", "model.onnx", "tokenizer.json"}
    assert {path.name for path in out.iterdir()} == {*expected, "tokenizer_config.json"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert np.abs(logits(out) - logits(source)).max() < 1e-5


def test_there_and_back(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", style="scatter", external_data=True)
    for target, start, out in (("concat", "source", "grown"), ("scatter", "grown", "back")):
        assert main(["convert", str(tmp_path / start), str(tmp_path / out), "--to", target]) == 0
        assert (tmp_path / out / "model.onnx.data").exists()
        assert np.abs(logits(tmp_path / out) - logits(source)).max() < 1e-5
    assert open_folder(tmp_path / "grown").spec.cache.style == "concat"


def test_scatter_nd_in_older_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", style="scatter")
    arguments = ["convert", str(source), str(tmp_path / "out"), "--to", "scatter-nd", "--primitive"]
    assert main(arguments) == 0
    assert "largest difference of a logit" in capsys.readouterr().out
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert model.opset_import[0].version == 18
    assert {"ScatterND", "Softmax"} <= {node.op_type for node in model.graph.node}


def test_a_fixed_capacity(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", style="concat")
    assert main(["convert", str(source / "model.onnx"), str(tmp_path / "out"), "--capacity", "32"]) == 0
    assert open_folder(tmp_path / "out").spec.cache.fixed_capacity == 32


def test_the_layout_of_published_models(tmp_path: Path) -> None:
    """The graph in onnx/, tokenizer and configuration above it."""
    source = write_folder(tmp_path / "source", style="concat")
    (source / "onnx").mkdir()
    (source / "model.onnx").rename(source / "onnx" / "model.onnx")
    assert main(["convert", str(source), str(tmp_path / "out"), "--no-verify"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 2
    assert open_folder(tmp_path / "out").tokenizer.vocab_size == 261


def test_contrib_operators_become_standard_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference backend cannot run the source, ONNX Runtime can: the two are compared there."""
    source = write_folder(tmp_path / "source", style="shared", position_ids=True)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "0-1: GroupQueryAttention, mask causal" in said
    assert "largest difference of a logit" in said
    model = load_model(source, backend="ort")
    wanted = model.forward([[5, 6, 7]], model.create_cache(capacity=16))
    assert np.abs(logits(tmp_path / "out")[:1] - wanted).max() < 1e-5


def test_to_standard_keeps_the_integers_and_is_compared_on_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = quantized(write_folder(tmp_path / "source", style="shared", position_ids=True))
    assert {"MatMulNBits", "GatherBlockQuantized", "GroupQueryAttention"} <= contrib_operators(source)
    assert main(["convert", str(source), str(tmp_path / "out"), "--to", "standard", "--capacity", "48"]) == 0
    said = capsys.readouterr().out
    assert "0-1: GroupQueryAttention, mask causal" in said
    assert "largest difference of a logit" in said
    assert not contrib_operators(tmp_path / "out")
    spec = open_folder(tmp_path / "out").spec.cache
    assert (spec.style, spec.fixed_capacity) == ("scatter", 48)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    kinds = (onnx.TensorProto.INT4, onnx.TensorProto.UINT8)
    tables = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT4]
    packed = [tensor for tensor in onnx.load(source / "model.onnx").graph.initializer if tensor.data_type in kinds]
    assert len(tables) == len(packed)
    # Four bits for each number there and here.
    assert sum(len(tensor.raw_data) for tensor in tables) == sum(len(tensor.raw_data) for tensor in packed)


def test_a_result_that_is_standard_already_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source")
    assert main(["convert", str(source), str(tmp_path / "out"), "--to", "standard"]) == 2
    assert "TensorScatter and standard operators only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "concat", "--capacity", "9"], "capacity=9 does not go with"),
        (["--primitive"], "primitive=True does not go with"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_folder(tmp_path / "source", style="concat")
    assert main(["convert", str(source), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_taken_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", style="concat")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_result_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "source", style="concat")
    real = module.to_scatter

    def wrong(model: object, **options: object) -> object:
        done = real(model, **options)
        for node in done.model.graph:
            if node.op_type == "Attention":
                node.attributes["scale"] = ir.AttrFloat32("scale", 0.1)
        return done

    monkeypatch.setattr(module, "to_scatter", wrong)
    with pytest.raises(BackendError, match="computes something else: a logit is off by"):
        module.convert_folder(source, tmp_path / "out")
    assert [path.name for path in (tmp_path).iterdir()] == ["source"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    model = build_model(ModelOptions(style="decomposed"))
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.attribute[0].i = 2
    source = write_folder(tmp_path / "source", style="decomposed")
    onnx.save(model, source / "model.onnx")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 2
    assert [path.name for path in (tmp_path).iterdir()] == ["source"]


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["convert", "--help"])
    assert "genai-iface convert ./exported ./my-model" in capsys.readouterr().out
