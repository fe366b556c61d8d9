# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""``genai-iface build ORG/NAME OUT`` from a hub on the loopback address."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai_iface.cli.main import main
from genai_iface.folder import open_folder
from tests.folder.resolve.small_hub import Repository, serving
from tests.parity.genai_folders import write_checkpoint

pytestmark = pytest.mark.parity


def test_a_checkpoint_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    checkpoint, _ = write_checkpoint("llama", tmp_path / "checkpoint")
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    unneeded = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"other", "consolidated.safetensors": b"twice"}
    with serving({"someone/tiny": Repository({"main": files | unneeded})}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert main(["build", "someone/tiny", str(tmp_path / "out"), "--revision", "main"]) == 0
        assert main(["build", "someone/nothing", str(tmp_path / "none")]) == 2
    assert not unneeded.keys() & set(hub.downloaded())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(hub.downloaded())
    assert open_folder(tmp_path / "out").spec.cache.style == "scatter"
