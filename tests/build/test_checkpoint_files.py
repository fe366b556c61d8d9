# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints whose files are incomplete, old, renamed, or of another save than config.json: the true reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedModelError

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from genai_iface.build._families import make_checkpoint

    path = tmp_path_factory.mktemp("source") / "llama"
    make_checkpoint("llama", path)
    return path


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of network with other weights, in shards."""
    from genai_iface.build._families import tiny_model

    path = tmp_path_factory.mktemp("shards") / "shards"
    tiny_model("llama", seed=1).save_pretrained(path, max_shard_size="80KB")
    return path


def loaded(folder: Path) -> Any:
    from genai_iface.build.checkpoint import load_network, open_checkpoint

    return load_network(open_checkpoint(folder), "float32")


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def save(folder: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def test_shards_are_all_read(shards: Path) -> None:
    import torch
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(shards, dtype=torch.float32)
    network = loaded(shards).network
    for name, weight in theirs.named_parameters():
        assert torch.equal(network.get_parameter(name), weight)


def test_shards_that_are_missing_are_named(shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shards, tmp_path / "checkpoint")
    names = sorted(path.name for path in folder.glob("model-*"))
    (folder / names[1]).unlink()
    with pytest.raises(InvalidInputError, match=f"1 of the {len(names)} files .* missing: {names[1]}"):
        loaded(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InvalidInputError, match=r"but no model\.safetensors\.index\.json"):
        loaded(folder)


def test_an_index_of_another_save(shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shards, tmp_path / "checkpoint")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "model.extra.weight": first}}))
    with pytest.raises(InvalidInputError, match=r"1 tensors that its files do not hold, among them 'model\.extra"):
        loaded(folder)
    for broken, words in (({}, "no weight_map"), ({"weight_map": {"a": "x.bin"}}, "no safetensors file")):
        path.write_text(json.dumps(broken))
        with pytest.raises(InvalidInputError, match=words):
            loaded(folder)


def test_a_file_of_an_earlier_save_is_said(source: Path, shards: Path, tmp_path: Path) -> None:
    import torch

    folder = shutil.copytree(shards, tmp_path / "checkpoint")
    shutil.copyfile(source / "model.safetensors", folder / "model.safetensors")
    both = loaded(folder)
    assert torch.equal(both.network.lm_head.weight, tensors_of(source)["lm_head.weight"])
    assert "model.safetensors.index.json beside it" in both.notes[0]
    assert "left from an earlier save" in both.notes[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consolidated.safetensors", r"only consolidated\.safetensors .*Transformers' names.* Rename it"),
        ("weights.safetensors", r"weights\.safetensors, but neither model\.safetensors nor"),
        ("pytorch_model.bin", r"pytorch_model\.bin is a pickle, which may run code"),
        ("model.gguf", r"but model\.gguf.* path of the GGUF file"),
    ],
)
def test_weights_under_another_name(name: str, words: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InvalidInputError, match=words):
        loaded(folder)


def test_weights_in_the_form_of_their_authors(folder: Path) -> None:
    import torch

    save(folder, {"layers.0.attention.wq.weight": torch.zeros(4, 4), "tok_embeddings.weight": torch.zeros(4, 4)})
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(InvalidInputError, match="form of the model's authors"):
        loaded(folder)


def test_tokens_that_config_json_does_not_know(folder: Path) -> None:
    configure(folder, vocab_size=120)
    with pytest.raises(InvalidInputError, match=r"vocab_size=120, but .* has 131 rows") as caught:
        loaded(folder)
    assert '"vocab_size": 131' in caught.value.remedy
    configure(folder, vocab_size=131)
    assert loaded(folder).notes == ()


def test_another_shape_is_named_with_both(folder: Path) -> None:
    configure(folder, num_key_value_heads=4)
    with pytest.raises(InvalidInputError, match=r"k_proj\.weight .*\(32, 64\), and config\.json makes it \(64, 64\)"):
        loaded(folder)


def test_a_missing_weight_is_never_random(folder: Path) -> None:
    tensors = tensors_of(folder)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["lm_head.weight"]
    save(folder, tensors)
    with pytest.raises(InvalidInputError, match=r"missing 2 weights .*lm_head\.weight"):
        loaded(folder)
    configure(folder, num_hidden_layers=3)
    with pytest.raises(InvalidInputError, match="missing"):
        loaded(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "layers.1.extra.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.weight_scale_inv",
        "lm_head.bias",
    ],
)
def test_a_weight_without_a_place_in_the_network_is_refused(name: str, folder: Path) -> None:
    import torch

    save(folder, {**tensors_of(folder), name: torch.ones(64)})
    with pytest.raises(InvalidInputError, match="gives no place, among them"):
        loaded(folder)


def test_parts_that_a_decoder_does_not_have_are_said(folder: Path) -> None:
    import torch

    extra = {
        "vision_tower.patch.weight": torch.ones(4),
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(64),
        "model.layers.2.eh_proj.weight": torch.ones(4),
    }
    save(folder, {**tensors_of(folder), **extra})
    configure(folder, num_nextn_predict_layers=1)
    (note,) = loaded(folder).notes
    assert note.startswith("3 weights are no part of the decoder")
    assert "vision_tower.patch" in note


def test_tied_tables(folder: Path) -> None:
    """One table for both; and a head of its own, whatever config.json says."""
    import torch

    tensors = tensors_of(folder)
    configure(folder, tie_word_embeddings=True)
    assert torch.equal(loaded(folder).network.lm_head.weight, tensors["lm_head.weight"])
    del tensors["lm_head.weight"]
    save(folder, tensors)
    network = loaded(folder).network
    assert network.lm_head.weight is network.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_type": "somebodys"}, UnsupportedModelError, "does not know the model type 'somebodys'"),
        ({"model_type": ...}, InvalidInputError, "has no model_type"),
        ({"model_type": "t5"}, UnsupportedModelError, "is a t5, for which Transformers has no causal language model"),
        ({"dtype": "torch.float16"}, InvalidInputError, r"dtype='torch\.float16', which is no type of torch"),
        ({"dtype": "float9"}, InvalidInputError, "dtype='float9', which is no type of torch"),
        ({"torch_dtype": "load"}, InvalidInputError, "torch_dtype='load', which is no type of torch"),
    ],
)
def test_configurations(change: dict[str, Any], error: type[GenAIError], words: str, folder: Path) -> None:
    configure(folder, **change)
    with pytest.raises(error, match=words) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"torch_dtype": "auto"}, {"torch_dtype": "float16"}])
def test_the_type_that_config_json_names_does_not_matter(change: dict[str, Any], folder: Path) -> None:
    import torch

    configure(folder, **change)
    assert {parameter.dtype for parameter in loaded(folder).network.parameters()} == {torch.float32}
