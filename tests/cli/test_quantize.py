# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The command quantize."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genai_iface import TextGenerationPipeline, load_model
from genai_iface.cli.main import main
from genai_iface.folder import open_folder
from genai_iface.models import default_folder
from tests.models import write_folder

TEXT = "Every value is named once and made before it is used, so there is no cycle.\n" * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny", hidden=64, max_positions=128, external_data=True)


@pytest.mark.slow
def test_weights_and_cache_with_perplexity(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "eval.txt"
    text.write_text(TEXT)
    out = tmp_path / "low"
    choices = ["--weights", "int4", "--int8", "lm_head", "--exclude", "0.*", "--kv-cache", "int8", "--eval", str(text)]
    choices += ["--int8-share", "0"]
    assert main(["quantize", str(folder), str(out), *choices]) == 0
    weights, cache, size, perplexity, place = capsys.readouterr().out.splitlines()
    assert weights.startswith("quantize-weights: 7 matrices to int4 and 1 matrix to int8 in blocks of 32")
    assert cache.startswith("quantize-cache: 4 cache tensors to int8")
    assert " MB -> " in size
    assert place == f"written to {out}"
    with TextGenerationPipeline(folder) as before, TextGenerationPipeline(out) as after:
        said = f"perplexity of {text} on numpy: {before.perplexity(TEXT):.3f} -> {after.perplexity(TEXT):.3f}"
    assert perplexity == said
    assert load_model(out, backend="ort").spec.cache.layers[0].dtype == "int8"


def test_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "low"
    arguments = ["--weights", "int8", "--asymmetric", "--block-size", "16", "--embedding", "float", "--json"]
    assert main(["quantize", str(folder), str(out), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["path"] == str(out)
    assert printed["perplexity_before"] is None
    assert printed["nbytes_after"] == sum(path.stat().st_size for path in out.glob("model.onnx*"))
    assert "15 matrices to uint8 in blocks of 16" in printed["notes"][0]["reason"]
    assert "a token table" in printed["notes"][0]["reason"]


def test_calibration_text_decides_the_scales(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("zzzz" * 50)
    base = ["quantize", str(folder), "--kv-cache", "int8", "--kv-scales", "head"]
    assert main([base[0], base[1], str(tmp_path / "default"), *base[2:]]) == 0
    assert main([base[0], base[1], str(tmp_path / "text"), *base[2:], "--calibration", str(tmp_path / "text.txt")]) == 0
    same = [*base[2:], "--calibration", str(tmp_path / "text.txt"), "--backend", "ort", "--option", "num_threads=1"]
    assert main([base[0], base[1], str(tmp_path / "ort"), *same]) == 0

    def scales(name: str) -> list[float]:
        graph = open_folder(tmp_path / name).load_ir().graph
        return [
            float(number)
            for key, value in graph.initializers.items()
            if key.endswith(".scales") and "past" in key
            for number in value.const_value.numpy()
        ]

    assert scales("text") == pytest.approx(scales("ort"), rel=1e-4)
    assert scales("text") != pytest.approx(scales("default"), rel=1e-2)


def test_without_a_tokenizer_random_ids_calibrate(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    assert main(["quantize", str(source), str(tmp_path / "low"), "--kv-cache", "int8"]) == 0
    assert load_model(tmp_path / "low").spec.cache.layers[0].dtype == "int8"


@pytest.mark.slow
def test_the_embedded_model_survives_four_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is int8, so its rounded weights are rounded once more."""
    text = tmp_path / "text.txt"
    # Of an operator that training never saw.
    text.write_text("The CumSum operator takes two required inputs, `x` and `axis`, and produces one output, `y`. " * 3)
    out = tmp_path / "int4"
    arguments = ["--weights", "int4", "--allow-requantize", "--exclude", "lm_head", "--kv-cache", "int8"]
    assert main(["quantize", str(default_folder()), str(out), *arguments, "--eval", str(text), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["perplexity_before"] != printed["perplexity_after"]
    assert printed["perplexity_after"] < 1.15 * printed["perplexity_before"]
    assert printed["nbytes_after"] < 0.75 * printed["nbytes_before"]
    with TextGenerationPipeline(out, backend="ort") as pipe:
        # Four bits may change the words, not the subject.
        assert "cache" in pipe.generate("The TensorScatter operator", max_new_tokens=30).text


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["quantize", *arguments]) == 2
    return capsys.readouterr().err


def test_errors_say_what_to_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "low")
    assert "--weights int4, or --kv-cache int8" in refused([str(folder), out], capsys)
    assert "block_size=33" in refused([str(folder), out, "--weights", "int4", "--block-size", "33"], capsys)
    assert "No matrix has a name like 'x'" in refused([str(folder), out, "--weights", "int4", "--exclude", "x"], capsys)
    assert "--allow-requantize" in refused([str(default_folder()), out, "--weights", "int4"], capsys)
    assert "cannot be read" in refused([str(folder), out, "--weights", "int4", "--eval", out], capsys)
    assert "exists already" in refused([str(folder), str(folder.parent), "--weights", "int4"], capsys)
    assert "no backend" in refused([str(folder), out, "--kv-cache", "int8", "--backend", "nothing"], capsys).lower()
    concat = write_folder(tmp_path / "concat", style="concat")
    assert "genai-iface convert" in refused([str(concat), out, "--kv-cache", "int8"], capsys)
    assert not Path(out).exists()


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "--help"])
    assert caught.value.code == 0
    assert "genai-iface quantize ./my-model ./my-model-int4 --weights int4" in capsys.readouterr().out


@pytest.mark.slow
def test_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    base = ["quantize", str(folder), "--weights", "int4", "--report", "--eval", str(text)]
    lost = {}
    for name, extra in {
        "calibrated": ["--calibration", str(text), "--calibration-tokens", "64", "--int8-share", "0"],
        "searched": ["--calibration", "none"],
        "nearest": ["--nearest"],
    }.items():
        assert main([*base[:2], str(tmp_path / name), *base[2:], *extra]) == 0
        lines = capsys.readouterr().out.splitlines()
        head, *rows = lines[: next(index for index, line in enumerate(lines) if line.startswith("quantize-weights"))]
        assert head.split() == ["matrix", "bits", "block", "root", "mean", "square", "error"]
        lost[name] = {row.split()[0]: float(row.split()[-1].rstrip("%")) for row in rows}
        assert any(line.startswith(f"perplexity of {text} on numpy: ") for line in lines)
    assert lost["nearest"].keys() == lost["searched"].keys() == lost["calibrated"].keys()
    assert all(lost["searched"][name] <= lost["nearest"][name] for name in lost["nearest"])
    # Single elements lose more, so that products lose less.
    assert lost["calibrated"]["1.down.weight"] > lost["searched"]["1.down.weight"]


def test_a_share_is_a_part(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(folder), str(tmp_path / "out"), "--weights", "int4", "--int8-share", "25"])
    assert caught.value.code == 2
