# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters become part of the weights, as peft merges them, or the error says what is missing; never nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genai_iface.errors import InvalidInputError, UnsupportedModelError

# What peft and Transformers say to each other while the tests write adapters.
QUIET = ("ignore::FutureWarning", "ignore::UserWarning")
pytestmark = [pytest.mark.parity, *map(pytest.mark.filterwarnings, QUIET)]

IDS = [[5, 9, 17, 33, 65, 12]]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "saved modules": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "head and table": {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
    "biases": {"bias": "lora_only"},
    "added tokens": {"modules_to_save": ["lm_head", "embed_tokens"], "rows": 140},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genai_iface.build._families import make_checkpoint

    path = tmp_path_factory.mktemp("base") / "base"
    make_checkpoint("llama", path)
    return path


def saved(base: Path, out: Path, *, rows: int | None = None, **options: Any) -> Any:
    """An adapter with random weights, saved by peft; returns peft's own network."""
    peft = pytest.importorskip("peft")
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        network.resize_token_embeddings(rows, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    wrapped = peft.get_peft_model(network, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    wrapped.save_pretrained(out)
    return wrapped


def opened(source: Path, *adapters: Path) -> Any:
    from genai_iface.build.checkpoint import load_network, open_checkpoint

    return load_network(open_checkpoint(source, adapters), "float32")


def logits(network: Any) -> Any:
    import torch

    with torch.inference_mode():
        return network(torch.tensor(IDS)).logits


@pytest.mark.parametrize("kind", KINDS)
def test_merged_logits_are_those_of_peft(kind: str, base: Path, tmp_path: Path) -> None:
    import torch

    expected = logits(saved(base, tmp_path / "adapter", **KINDS[kind]))
    plain = logits(opened(base).network)
    for loaded in (opened(tmp_path / "adapter"), opened(base, tmp_path / "adapter")):
        torch.testing.assert_close(logits(loaded.network), expected, rtol=1e-4, atol=2e-5)
        names = [name for name, _ in loaded.network.named_parameters()]
        assert not [name for name in names if "lora" in name or "modules_to_save" in name]
        assert "adapter (LORA) was merged" in loaded.notes[0]
    assert (expected[..., : plain.shape[-1]] - plain).abs().max() > 0.1
    assert ("grew from 131 to 140" in loaded.notes[0]) == (kind == "added tokens")


def test_one_after_the_other(base: Path, tmp_path: Path) -> None:
    """LoRA adds to a matrix, so two of them add up."""
    import torch

    for name, target in (("one", "q_proj"), ("two", "v_proj")):
        saved(base, tmp_path / name, target_modules=[target])
    both = opened(base, tmp_path / "one", tmp_path / "two")
    parts = {name: opened(base, tmp_path / name).network for name in ("one", "two")}
    for name, target in (("one", "q_proj"), ("two", "v_proj")):
        weight = f"model.layers.1.self_attn.{target}.weight"
        assert torch.equal(both.network.get_parameter(weight), parts[name].get_parameter(weight))
    assert len(both.notes) == 2


def test_a_build_of_an_adapter(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genai_iface.cli.main import main
    from tests.build.test_build import greedy_batch, independent_greedy

    merged = saved(base, tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    (tmp_path / "adapter" / "tokenizer_config.json").write_text('{"added": true}')
    assert main(["build", str(base), str(tmp_path / "out"), "--adapter", str(tmp_path / "adapter")]) == 0
    assert "note: the adapter adapter (LORA) was merged" in capsys.readouterr().out
    expected = independent_greedy(tmp_path / "merged", IDS[0], 6)
    assert greedy_batch(tmp_path / "out", "numpy", IDS, 6) == [expected]
    # A tokenizer is taken whole or not at all.
    assert not (tmp_path / "out" / "tokenizer_config.json").exists()


def test_beside_the_weights(base: Path, tmp_path: Path) -> None:
    import torch

    expected = logits(saved(base, tmp_path / "adapter"))
    folder = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(tmp_path / "adapter", folder, dirs_exist_ok=True)
    loaded = opened(folder)
    torch.testing.assert_close(logits(loaded.network), expected, rtol=1e-4, atol=2e-5)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"no adapter_model\.safetensors.*pickle"):
        opened(folder)


def test_without_peft_the_error_names_the_command(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genai_iface.build.checkpoint import source

    saved(base, tmp_path / "adapter")
    folder = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(tmp_path / "adapter", folder, dirs_exist_ok=True)
    monkeypatch.setattr(source, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(InvalidInputError, match=r"beside the weights.*needs peft") as caught:
        source.open_checkpoint(folder)
    assert "pip install 'genai-iface[lora]'" in caught.value.remedy
    assert "build without the adapter" in caught.value.remedy
    with pytest.raises(InvalidInputError, match="needs peft") as caught:
        source.open_checkpoint(tmp_path / "adapter")
    assert "without the adapter" not in caught.value.remedy


def test_part_of_an_adapter(base: Path, tmp_path: Path) -> None:
    """What it has no weights for stays as it is; half of a pair would be filled with random numbers."""
    from safetensors.torch import load_file, save_file

    saved(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith(first)}, path)
    assert "1 matrices that it names have no weights in it" in opened(tmp_path / "adapter").notes[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != f"{first}A.weight"}, path)
    with pytest.raises(InvalidInputError, match=r"lacks weights.*layers\.0\.self_attn\.q_proj"):
        opened(tmp_path / "adapter")
    save_file(
        {**tensors, first.replace("layers.0", "layers.7") + "A.weight": tensors[f"{first}A.weight"].clone()}, path
    )
    with pytest.raises(InvalidInputError, match=r"no place for.*layers\.7"):
        opened(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"base_model_name_or_path": "/nowhere/base"},
            InvalidInputError,
            "'/nowhere/base', which is neither a folder nor",
        ),
        ({"base_model_name_or_path": None}, InvalidInputError, "does not say of which network"),
        ({"base_model_name_or_path": "."}, InvalidInputError, "name each other as their base"),
        ({"peft_type": "PROMPT_TUNING"}, UnsupportedModelError, "PROMPT_TUNING, which cannot be merged"),
        ({"peft_type": "SOMEBODYS"}, UnsupportedModelError, "does not know the kind 'SOMEBODYS'"),
        ({"peft_type": 3}, InvalidInputError, "no peft_type"),
        ({"layer_replication": [[0, 2], [0, 2]]}, UnsupportedModelError, "layer_replication"),
        ({"megatron_config": {"a": 1}}, UnsupportedModelError, "names code"),
        ({"r": 8}, InvalidInputError, "cannot be merged into LlamaForCausalLM"),
    ],
)
def test_what_cannot_be_merged(
    change: dict[str, Any], error: type[Exception], words: str, base: Path, tmp_path: Path
) -> None:
    saved(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=words):
        opened(tmp_path / "adapter")


def test_folders_that_are_no_adapters(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no adapter_config\.json"):
        opened(base, tmp_path)
    with pytest.raises(InvalidInputError, match="cannot be opened"):
        opened(base, tmp_path / "nowhere")


def test_a_base_that_cannot_be_had_names_the_adapter_and_the_way_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    saved(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "someone/base"}))
    with pytest.raises(InvalidInputError, match=r"adapter \(LORA\) of .someone/base., .* HF_HUB_OFFLINE") as caught:
        opened(tmp_path / "adapter")
    assert f"genai-iface build BASE OUT --adapter {tmp_path / 'adapter'}" in caught.value.remedy
