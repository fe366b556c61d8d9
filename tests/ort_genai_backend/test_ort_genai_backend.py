# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend over ONNX Runtime GenAI: its verdict, its pipeline, and what it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genai_iface import (
    BackendError,
    CacheOverflowError,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
    UnsupportedModelError,
    load_backend,
    load_model,
)
from genai_iface.conformance import GOLDEN, load_adapter, run_checks
from genai_iface.conformance._golden import open_golden
from genai_iface.conformance.forms import write_form

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
]
TEXT = "i \U0001f642!é."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_form(GOLDEN / "text/concat-float32", "ort-genai", tmp_path / "text")


def test_its_verdict() -> None:
    run = run_checks(load_adapter("ort-genai"), seed=5)
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert (run.profile, run.form, run.verdict) == ("generator", "ort-genai", "conforms")
    passed = {item.check.id for item in run.outcomes if item.status == "passed"}
    assert {"L3.golden.two_layers", "L4.greedy.fresh", "L4.generator.rewind", "L4.stream.concatenation"} <= passed


def test_its_greedy_tokens_are_the_reference(tmp_path: Path) -> None:
    golden = open_golden("base", "concat", "float32")
    backend: Any = load_backend("ort-genai")
    made = write_form(golden.folder, "ort-genai", tmp_path / "base")
    generator = backend.generator(made, config=GenerationConfig())
    generator.append_tokens(golden.greedy_prompt)
    for _ in golden.greedy:
        generator.generate_next_token()
    assert generator.get_sequence(0)[len(golden.greedy_prompt) :] == golden.greedy


def test_a_pipeline_by_its_name(folder: Path) -> None:
    with TextGenerationPipeline(folder, backend="ort-genai") as pipe:
        result = pipe.generate(["H", "!"], max_new_tokens=30)
        assert (result.texts, result.finish_reasons) == ([TEXT, "é."], ["stop", "stop"])
        assert "".join(chunk.text for chunk in pipe.stream("H", stop_strings=["!"])) == "i \U0001f642"


def test_what_it_cannot_do_is_refused_by_name(folder: Path) -> None:
    with TextGenerationPipeline(folder, backend="ort-genai") as pipe:
        for fields in ({"min_p": 0.5}, {"num_beams": 2}, {"regex": "a"}, {"min_new_tokens": 3}):
            with pytest.raises(UnsupportedCapabilityError, match=next(iter(fields))):
                pipe.generate("H", max_new_tokens=2, **fields)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedCapabilityError, match="owns the loop"):
        load_model(folder, backend="ort-genai")


def test_what_is_wrong_is_said_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    backend: Any = load_backend("ort-genai")
    generator = backend.generator(folder, config=GenerationConfig(), capacity=4)
    with pytest.raises(CacheOverflowError):
        generator.append_tokens([1, 2, 3, 4, 5])
    with pytest.raises(InvalidInputError, match="261 is not in"):
        generator.append_tokens([261])
    with pytest.raises(InvalidInputError, match="nothing to go on from"):
        generator.generate_next_token()
    assert generator.token_count() == 0
    for wrong, match in (({"device": "cuda"}, "no device"), ({"options": {"x": 1}}, "no option 'x'")):
        with pytest.raises(InvalidInputError, match=match):
            backend.generator(folder, config=GenerationConfig(), **wrong)
    with pytest.raises(InvalidInputError, match=r"no genai_config\.json"):
        backend.generator(GOLDEN / "text/concat-float32", config=GenerationConfig())
    said = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    said["model"]["decoder"]["filename"] = "../elsewhere.onnx"
    (folder / "genai_config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(InvalidInputError, match="elsewhere"):
        load_backend("ort-genai").generator(folder, config=GenerationConfig())  # type: ignore[attr-defined]


def test_nothing_from_outside_is_loaded(folder: Path, tmp_path: Path) -> None:
    said = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    said["model"]["decoder"]["session_options"]["custom_ops_library"] = "evil.so"
    (folder / "genai_config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="custom_ops_library"):
        load_backend("ort-genai").generator(folder, config=GenerationConfig())  # type: ignore[attr-defined]
    inner = write_form(GOLDEN / "base/concat-float32", "ort-genai", tmp_path / "outer/inner")
    (inner / "model.onnx").write_bytes((GOLDEN / "escape/model.onnx").read_bytes())
    (tmp_path / "outer/weights.bin").write_bytes((GOLDEN / "escape/weights.bin").read_bytes())
    with pytest.raises(BackendError, match="cannot load"):
        load_backend("ort-genai").generator(inner, config=GenerationConfig())  # type: ignore[attr-defined]
