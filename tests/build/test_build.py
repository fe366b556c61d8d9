# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Model folders from checkpoints: what comes out computes what torch computes, or nothing comes out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from genai_iface import load_model
from genai_iface.cli.main import main
from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import FolderTokenizer, open_folder

pytestmark = pytest.mark.parity

Checkpoint = Callable[[str], Path]


def made_once(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Tiny random checkpoints, each made once."""
    from genai_iface.build._families import make_checkpoint

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "checkpoint"
            make_checkpoint(family, made[family])
        return made[family]

    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return made_once(tmp_path_factory)


def built(source: Path, out: Path, **options: Any) -> Any:
    from genai_iface.build._build import BuildOptions, build

    return build(source, out, BuildOptions(**options))


def independent_greedy(source: Path, prompt: list[int], steps: int) -> list[int]:
    """Greedy tokens by torch without any cache, in a network of its own."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(steps):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def greedy_batch(folder: Path, backend: str, prompts: list[list[int]], steps: int) -> list[list[int]]:
    """Greedy tokens of a ragged batch."""
    model = load_model(folder, backend=backend)
    counts = np.array([len(prompt) for prompt in prompts])
    ids = np.zeros((len(prompts), counts.max()), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    cache = model.create_cache(batch_size=len(prompts), capacity=int(counts.max()) + steps)
    tokens = []
    logits = model.forward(ids, cache, counts=counts)
    for _ in range(steps):
        tokens.append(logits[:, -1].argmax(-1))
        logits = model.forward(tokens[-1][:, None], cache)
    model.close()
    return np.stack(tokens, axis=1).tolist()


# What sets them apart: nothing; a window and ragged rows; latent attention and experts; learned positions.
@pytest.mark.parametrize("family", ["llama", "gemma3", "deepseek_v3", "gpt2"])
def test_an_export_has_torchs_tokens_on_both_backends(family: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint(family)
    result = built(source, tmp_path / "out", via="export")
    assert result.verified
    assert result.attempts[-1].comparison.tokens_equal
    assert result.attempts[-1].comparison.difference < 1e-5
    prompts = [[5, 9, 17, 33, 65, 12, 3, 88, 41, 7, 120], [60, 61, 62, 63], [100]]
    expected = [independent_greedy(source, prompt, 12) for prompt in prompts]
    for backend in ("numpy", "ort"):
        assert greedy_batch(tmp_path / "out", backend, prompts, 12) == expected


def test_the_graph_is_standard_and_says_how_it_was_made(checkpoint: Checkpoint, tmp_path: Path) -> None:
    built(checkpoint("llama"), tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 24}
    counts = Counter(node.op_type for node in model.graph.node)
    assert {name: counts[name] for name in ("Attention", "TensorScatter", "RMSNormalization", "RotaryEmbedding")} == {
        "Attention": 2,
        "TensorScatter": 4,
        "RMSNormalization": 5,
        "RotaryEmbedding": 4,
    }
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["genai_iface.build_method"], facts["genai_iface.verified"]) == ("export", "true")
    assert str(Path.home()) not in str(model)
    assert "site-packages" not in str(model)
    folder = open_folder(tmp_path / "out")
    assert (folder.signature.cache.style, folder.signature.cache.layout) == ("scatter", "bnsh")
    assert folder.signature.cache.fixed_capacity is None
    assert set(folder.signature.inputs) == {"input_ids", "write_indices"}


@pytest.mark.parametrize("backend", ["numpy", "ort"])
@pytest.mark.parametrize("factor", [100, 500])
def test_squares_beyond_float16_do_not_matter(
    factor: int, backend: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Hidden values of some hundreds, as real models have them: their squares overflow in float16."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32)
    network.model.embed_tokens.weight.data.mul_(factor / network.model.embed_tokens.weight.abs().max())
    shutil.copytree(checkpoint("llama"), tmp_path / "large")
    network.save_pretrained(tmp_path / "large")
    result = built(tmp_path / "large", tmp_path / "out", dtype="float16", via="export", verify_on=backend)
    assert result.verified
    assert result.attempts[-1].comparison.difference < 1e-2


def test_two_methods_with_one_difference_are_enough(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of what runs the results, here of the reference, is not looked for in a third method."""
    from genai_iface.build import _build as module

    def shifted(*arguments: Any, **options: Any) -> Any:
        reference = module_reference(*arguments, **options)
        return dataclasses.replace(reference, logits=-reference.logits)

    module_reference = module.torch_reference
    monkeypatch.setattr(module, "torch_reference", shifted)
    with pytest.raises(UnsupportedModelError) as caught:
        built(checkpoint("qwen3"), tmp_path / "out")
    assert "mobius: differs" in caught.value.what
    assert "convert:" not in caught.value.what
    assert "--verify-on ort" in caught.value.remedy
    assert "--unverified" not in caught.value.remedy


def test_rank_three_caches_on_request(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert built(checkpoint("llama"), tmp_path / "out", layout="bsh", via="export").verified
    assert open_folder(tmp_path / "out").signature.cache.layout == "bsh"


def test_mobius_graphs_are_brought_into_the_same_form(checkpoint: Checkpoint, tmp_path: Path) -> None:
    result = built(checkpoint("qwen3"), tmp_path / "out", via="mobius")
    cache = open_folder(tmp_path / "out").signature.cache
    assert result.verified
    assert (cache.style, cache.layout, cache.fixed_capacity) == ("scatter", "bnsh", None)


def test_auto_goes_on_where_a_road_ends(checkpoint: Checkpoint, tmp_path: Path) -> None:
    result = built(checkpoint("falcon"), tmp_path / "out")
    assert result.method == "convert"
    assert result.verified
    assert "by itself" in result.attempts[0].problem


def test_half_precision(checkpoint: Checkpoint, tmp_path: Path) -> None:
    result = built(checkpoint("qwen3"), tmp_path / "out", via="export", dtype="float16")
    assert result.verified
    assert {layer.dtype for layer in open_folder(tmp_path / "out").signature.cache.layers} == {"float16"}
    assert 1e-6 < result.attempts[-1].comparison.difference < 2e-2


def test_quantized_weights_are_measured(checkpoint: Checkpoint, tmp_path: Path) -> None:
    result = built(checkpoint("llama"), tmp_path / "out", via="export", quantize="int8", block_size=32)
    assert result.verified
    assert 1e-5 < result.quantized.difference < 5e-2
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node)
    assert counts["DequantizeLinear"] >= counts["MatMul"] == 15  # seven in each layer, and the head


def test_large_weights_get_a_file_of_their_own(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genai_iface.build import _model_file as model_file

    monkeypatch.setattr(model_file, "_MOST_INLINE", 0)
    result = built(checkpoint("llama"), tmp_path / "out", via="export", quantize="int4", block_size=16)
    assert result.verified
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > (tmp_path / "out" / "model.onnx").stat().st_size
    facts = {entry.key for entry in onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).metadata_props}
    assert "genai_iface.quantized_difference" in facts
    assert greedy_batch(tmp_path / "out", "ort", [[5, 6, 7]], 2) == greedy_batch(
        tmp_path / "out", "numpy", [[5, 6, 7]], 2
    )


@pytest.mark.skipif(find_spec("accelerate") is None or find_spec("gguf") is None, reason="pip install '.[gguf]'")
@pytest.mark.parametrize("method", ["export", "mobius"])
def test_gguf_files(method: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    from benchmarks.checkpoint import build_gguf

    source = shutil.copytree(checkpoint("llama"), tmp_path / "llama")
    result = built(build_gguf(source, "fp32") / "model.gguf", tmp_path / "out", via=method)
    assert result.verified
    prompt = [5, 9, 17, 33]
    expected = independent_greedy(source, prompt, 8)  # from the safetensors that the file was written from
    assert greedy_batch(tmp_path / "out", "numpy", [prompt], 8) == [expected]


def test_a_context_is_written_down(checkpoint: Checkpoint, tmp_path: Path) -> None:
    built(checkpoint("llama"), tmp_path / "out", context=64)
    assert open_folder(tmp_path / "out").context_length == 64
    with pytest.raises(InvalidInputError, match="128 positions"):
        built(checkpoint("llama"), tmp_path / "other", context=1000)


@pytest.fixture
def forgotten_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method "export" with the bug that mobius-onnx has: sliding windows are left out."""
    from genai_iface.build.methods import standard_attention

    monkeypatch.setattr(standard_attention, "explicit_mask", lambda *_: None)


@pytest.mark.usefixtures("forgotten_window")
def test_a_wrong_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"export: differs from torch: .*row \d+, step \d+"):
        built(checkpoint("mistral"), tmp_path / "out", via="export")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("forgotten_window")
def test_a_wrong_model_is_kept_on_request_and_marked(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["build", str(checkpoint("mistral")), out, "--via", "export", "--unverified"]) == 0
    facts = {entry.key: entry.value for entry in onnx.load(f"{out}/model.onnx").metadata_props}
    assert facts["genai_iface.verified"] == "false"
    assert "NOT verified" in capsys.readouterr().err


def test_what_has_no_standard_form_is_refused_with_the_reason(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="of a kind of its own"):
        built(checkpoint("zaya"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bad_places_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InvalidInputError, match="exists already"):
        built(checkpoint("llama"), tmp_path / "full")
    with pytest.raises(InvalidInputError, match="cannot be made"):
        built(checkpoint("llama"), tmp_path / "full" / "file" / "out")
    with pytest.raises(InvalidInputError, match=r"no config\.json"):
        built(tmp_path / "full", tmp_path / "out")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InvalidInputError, match="no weights"):
        built(tmp_path / "weights", tmp_path / "out")
    with pytest.raises(InvalidInputError, match="not a GGUF file"):
        built(tmp_path / "full" / "file", tmp_path / "out")


def test_all_chat_templates_go_along(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint("llama"), source)
    (source / "chat_template.jinja").write_text("plain")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools {{ tools|length }}")
    from tests.generation.text.tokenizers_for_tests import byte_level

    (source / "tokenizer.json").write_text(byte_level().to_json())
    built(source, tmp_path / "out")
    tokenizer = FolderTokenizer(tmp_path / "out")
    ask = [{"role": "user", "content": "x"}]
    assert tokenizer.apply_chat_template(ask) == "plain"
    assert tokenizer.apply_chat_template(ask, tools=[{}, {}]) == "tools 2"


def test_stages_are_counted_and_the_rest_is_estimated() -> None:
    from genai_iface.build._stages import STAGE_SHARES, Stages

    lines: list[str] = []
    now = [100.0]
    stages = Stages(lines.append, ["load", "decode", "export", "compare"], clock=lambda: now[0])
    stages.begin("load", "loading m")
    stages.begin("decode", "decoding with torch")
    stages.begin("export", "building by way of export")
    # A thousand seconds for all of it.
    now[0] += 1000 * (STAGE_SHARES["load"] + STAGE_SHARES["decode"] + STAGE_SHARES["export"] / 2)
    stages.part(1, 2)
    rest = 1000 * (STAGE_SHARES["export"] / 2 + STAGE_SHARES["compare"]) / 60
    assert lines[0] == "1 of 4: loading m"
    assert lines[-1] == f"3 of 4: building by way of export, 1 of 2 (about {rest:.0f} min left)"
    stages.begin("compare", "comparing")
    stages.part(2, 2)
    assert lines[-1].startswith("4 of 4: comparing, 2 of 2 (about 0 s left)")


def test_another_method_makes_the_plan_longer() -> None:
    from genai_iface.build._stages import Stage, Stages

    lines: list[str] = []
    stages = Stages(lines.append, ["load", "decode", "export", "compare", "quantize"], clock=lambda: 0.0)
    done: list[Stage] = ["load", "decode", "export", "export", "compare", "export", "compare", "quantize"]
    for stage in done:
        stages.begin(stage, stage)
    counts = [line.split(":")[0] for line in lines]
    assert counts == ["1 of 5", "2 of 5", "3 of 5", "4 of 6", "5 of 6", "6 of 8", "7 of 8", "8 of 8"]
