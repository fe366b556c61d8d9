# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The Transformers backend: the conformance kit, sliding windows, and what it refuses to load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import BackendError, CacheRewindError, InvalidInputError, UnsupportedModelError, load_model
from genai_iface.conformance import load_adapter, run_checks
from genai_iface.conformance._golden import GOLDEN

pytestmark = pytest.mark.parity

BASE = GOLDEN / "base" / "scatter-float32"


def test_it_reaches_level_4() -> None:
    run = run_checks(load_adapter("transformers"))
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "conforms"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def test_no_onnx_is_needed(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    model = load_model(folder, backend="transformers")
    other = load_model(BASE)
    ids = [[1, 2, 3, 4]]
    got, expected = (one.forward(ids, one.create_cache(capacity=4)) for one in (model, other))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_absent_weights_are_no_random_numbers(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match="is missing 1 weights"):
        load_model(folder, backend="transformers")


def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(InvalidInputError, match="leaves the model folder"):
        load_model(folder, backend="transformers")


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidInputError, match="no checkpoint"):
        load_model(folder, backend="transformers")


def test_an_adapter_beside_the_weights_is_not_passed_over(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UnsupportedModelError, match="An adapter") as caught:
        load_model(folder, backend="transformers")
    assert "genai-iface build" in caught.value.remedy


def test_a_quantized_checkpoint_ends_in_one_line(folder: Path) -> None:
    path = folder / "config.json"
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    with pytest.raises(UnsupportedModelError, match="needs more packages") as caught:
        load_model(folder, backend="transformers")
    assert "\n" not in str(caught.value)


def test_other_models_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UnsupportedModelError):
        load_model(folder, backend="transformers")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(InvalidInputError, match="not understood"):
        load_model(folder, backend="transformers")


def test_sliding_windows(folder: Path) -> None:
    """A Mistral with a window of 6: chunks and rewinds, against one forward call of Transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 6}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = np.random.default_rng(0).integers(0, 40, (1, 20))
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(tokens)).logits.numpy()[0]

    model = load_model(folder, backend="transformers")
    assert [layer.mode for layer in model.spec.cache.layers] == ["circular"] * 2
    assert "rewind" not in model.capabilities
    cache = model.create_cache(capacity=20)
    model.forward(tokens[:, :4], cache, logits="none")
    cache.rewind_to(3)
    np.testing.assert_allclose(model.forward(tokens[:, 3:5], cache)[0, 0], expected[4], atol=2e-5)
    np.testing.assert_allclose(model.forward(tokens[:, 5:16], cache)[0, 0], expected[15], atol=2e-5)
    assert not cache.can_rewind_to(12)
    with pytest.raises(CacheRewindError):
        cache.rewind_to(12)
    np.testing.assert_allclose(model.forward(tokens[:, 16:17], cache)[0, 0], expected[16], atol=2e-5)


def test_a_step_that_fails_in_one_row_leaves_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder, backend="transformers")
    cache = model.create_cache(batch_size=2, capacity=8)
    model.forward([[1, 2], [3, 4]], cache, logits="none")
    run, calls = model._run, []

    def fails_later(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise BackendError("broken")
        return run(*arguments, **named)

    monkeypatch.setattr(model, "_run", fails_later)
    with pytest.raises(BackendError, match="broken"):
        model.forward([[5], [6]], cache)
    assert cache.lengths.tolist() == [2, 2]
    got = model.forward([[7], [8]], cache)
    for row, tokens in enumerate(([1, 2, 7], [3, 4, 8])):
        alone = model.forward([tokens], model.create_cache())
        np.testing.assert_allclose(got[row], alone[0], rtol=0, atol=2e-5)
