# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What is mistyped, or makes no sense, is told with what may have been meant."""

from __future__ import annotations

import io
import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from genai_iface import (
    BackendNotFoundError,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
    load_backend,
    load_model,
)
from genai_iface.cli.commands.conformance import _find_adapter
from genai_iface.cli.main import main
from genai_iface.folder import open_folder
from genai_iface.models import EMBEDDED, default_folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a command that ends with 2."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["genrate", "x"], ["usage: genai-iface [-h]", "Did you mean 'generate'?"]),
        (["generate", "x", "--max-token", "3"], ["usage: genai-iface generate", "--max-token", "'--max-new-tokens'?"]),
        (["bench", "--repeat=3", "--comparee=ort"], ["usage: genai-iface bench", "Did you mean '--compare'?"]),
        (["generate", "x", "y", "z"], ["usage: genai-iface generate", "unrecognized arguments: y z."]),
        (["generate", "x", "--backend", "nunpy"], ["no backend 'nunpy'", "Did you mean 'numpy'?"]),
        (["bench", "--new-tokens", "1"], ["--new-tokens is 1", "Give 2 or more."]),
        (["bench", "--compare", "numpy"], ["--compare names 'numpy' again"]),
        (["verify", "--backend", "numpy"], ["both 'numpy', which agrees with itself"]),
        (["verify", "--backend", "ort", "--tolerance", "-1"], ["'-1' is not a number of at least 0"]),
        (["verify", "--backend", "ort", "--tolerance", "nan"], ["'nan' is not a number of at least 0"]),
        (["generate", "x", "--prompt-lookup", "2", "--draft-model", "y"], ["not allowed with"]),
        (["generate", "x", "--prompt-lookup", "0"], ["not an integer of at least 1"]),
        (["perplexity", "nowhere.txt"], ["'nowhere.txt' cannot be read"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0][0] != "u" else None,
)
def test_one_line_that_helps(arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(arguments, capsys)
    assert "Traceback" not in said
    for part in parts:
        assert part in said, said


def test_parameters_and_backends() -> None:
    with pytest.raises(InvalidInputError, match="Did you mean 'temperature'"):
        GenerationConfig().replace(temprature=1)
    with pytest.raises(InvalidInputError, match="Did you mean 'max_new_tokens'"):
        GenerationConfig.from_dict({"max_new_token": 1})
    with pytest.raises(InvalidInputError, match="Legal names: bad_words_ids"):
        GenerationConfig().replace(zzz=1)
    with pytest.raises(BackendNotFoundError, match="Did you mean 'ort'"):
        load_backend("orl")


def test_a_model_without_a_template_says_so_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(default_folder(), tmp_path / "plain")
    settings = tmp_path / "plain" / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(settings.read_text()).items() if key != "chat_template"}
    settings.write_text(json.dumps(kept))
    monkeypatch.setattr("sys.stdin", io.StringIO("never read\n"))
    assert "has no chat template" in refused(["chat", "--model", str(tmp_path / "plain")], capsys)
    assert sys.stdin.read() == "never read\n"
    with TextGenerationPipeline(tmp_path / "plain") as pipe:
        with pytest.raises(UnsupportedCapabilityError, match="has no chat template: it continues texts"):
            pipe.chat()
        with pipe.chat(chat_template="{{ messages[0].content }}") as session:
            assert session.send("The Add operator", max_new_tokens=2)


def test_a_long_prompt_is_told_with_both_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert "has 3000 tokens, and the model takes at most 2048" in refused(["generate", " the" * 3000], capsys)


def test_the_embedded_model_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_folder(EMBEDDED).path == default_folder()
    with TextGenerationPipeline(EMBEDDED) as named, TextGenerationPipeline() as plain:
        texts = [pipe.generate("The Add operator", max_new_tokens=4).text for pipe in (named, plain)]
    assert texts[0] == texts[1]
    # What exists under that name is meant.
    (tmp_path / EMBEDDED).mkdir()
    with pytest.raises(InvalidInputError, match="onnx-prose"):
        open_folder(EMBEDDED)


def test_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("The Add operator adds two tensors. The Mul operator multiplies two tensors.")
    assert main(["perplexity", str(path), "--json"]) == 0
    (value,) = json.loads(capsys.readouterr().out)["perplexity"].values()
    ids = open_folder(EMBEDDED).tokenizer.encode(path.read_text())
    model = load_model(EMBEDDED)
    logits = model.forward([ids], model.create_cache(), logits="all")[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert value == pytest.approx(np.exp(-logs[np.arange(len(ids) - 1), ids[1:]].mean()), rel=1e-5)
    assert main(["perplexity", str(path)]) == 0
    assert capsys.readouterr().out == f"{value:.4f}  {path}\n"


@pytest.mark.parametrize("more", [["--prompt-lookup"], ["--prompt-lookup", "3"], ["--draft-model", EMBEDDED]], ids=str)
def test_speculation_changes_no_text(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for extra in ([], more):
        assert main(["generate", "The Add operator", "--max-new-tokens", "12", *extra]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_a_copy_of_the_example_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    # As an installed command starts: without an entry for the current folder.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    monkeypatch.chdir(tmp_path)
    wanted = Namespace(adapter="my_own_runtime:OrtAdapter", harness=None, url=None)
    with pytest.raises(InvalidInputError, match="in the folder that holds the module"):
        _find_adapter(wanted)
    shutil.copy(
        Path(__file__).parents[2] / "examples/new_runtime/onnxruntime_runtime.py", tmp_path / "my_own_runtime.py"
    )
    try:
        assert _find_adapter(wanted).backend().info().name == "plain-ort"
        # What is installed comes first: a folder cannot take its place.
        assert sys.path.index(str(tmp_path)) == len(sys.path) - 1
    finally:
        sys.modules.pop("my_own_runtime", None)
