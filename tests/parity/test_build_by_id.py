# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""``genai-iface build ORG/NAME OUT`` from a hub on the loopback address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genai_iface.cli.main import main
from genai_iface.folder import open_folder
from tests.folder.resolve.small_hub import Repository, SmallHub, serving
from tests.parity.genai_folders import write_checkpoint

pytestmark = pytest.mark.parity


def ask(hub: SmallHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the client of the hub ask this one, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_checkpoint_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = write_checkpoint("llama", tmp_path / "checkpoint")
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    unneeded = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"other", "consolidated.safetensors": b"twice"}
    with serving({"someone/tiny": Repository({"main": files | unneeded})}) as hub:
        ask(hub, tmp_path / "cache", monkeypatch)
        assert main(["build", "someone/tiny", str(tmp_path / "out"), "--revision", "main"]) == 0
        assert main(["build", "someone/nothing", str(tmp_path / "none")]) == 2
    assert not unneeded.keys() & set(hub.downloaded())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(hub.downloaded())
    assert open_folder(tmp_path / "out").spec.cache.style == "scatter"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_of_a_repository_brings_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    from genai_iface.build.checkpoint import load_network, open_checkpoint

    checkpoint, _ = write_checkpoint("llama", tmp_path / "base")
    network = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    # With init_lora_weights=False the adapter changes the network from the start.
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(network, settings)
    wrapped.peft_config["default"].base_model_name_or_path = "someone/base"
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload().state_dict()
    repositories = {
        f"someone/{name}": Repository({"main": {path.name: path.read_bytes() for path in folder.iterdir()}})
        for name, folder in (("base", checkpoint), ("adapter", tmp_path / "adapter"))
    }
    with serving(repositories) as hub:
        ask(hub, tmp_path / "cache", monkeypatch)
        loaded = load_network(open_checkpoint("someone/adapter"), "float32").network.state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (loaded[name] - merged[name]).abs().max() < 1e-6
    assert (loaded[name] - network_weight(checkpoint, name)).abs().max() > 1e-3


def network_weight(checkpoint: Path, name: str) -> Any:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")[name]
