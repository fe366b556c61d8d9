# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Folders of ONNX Runtime GenAI's builder whose windows the graph does not know, or keeps in a ring: torch's tokens."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from genai_iface import load_model
from genai_iface.folder import open_folder
from tests.parity.checkpoints import torch_greedy
from tests.parity.genai_folders import build_genai, write_checkpoint

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
    pytest.mark.filterwarnings("ignore:.*in-place optimization.*"),
]

# Longer than the window of 8, and a shorter row beside it.
PROMPT = [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
STEPS = 16
CASES = {
    "mistral": ({"sliding_window": 8}, "windows: 8 in 2 of 2 layers, from genai_config.json"),
    "phi3": ({"sliding_window": 8}, "windows: 8 in 2 of 2 layers, from genai_config.json"),
    "gemma2": ({}, "window-buffers: 1 layers keep their whole past"),
}


@pytest.mark.parametrize("family", CASES)
def test_ragged_prompts_beyond_the_window(family: str, tmp_path: Path) -> None:
    fields, change = CASES[family]
    checkpoint, network = write_checkpoint(family, tmp_path / "checkpoint", **fields)
    folder = build_genai(checkpoint, tmp_path / "built", "fp32")
    assert any(note.startswith(change) for note in open_folder(folder).changes)
    wanted, _ = torch_greedy(network, PROMPT, STEPS)
    other, _ = torch_greedy(network, PROMPT[:3], STEPS)
    for backend in ("ort", "numpy"):
        model = load_model(folder, backend=backend)
        cache = model.create_cache(batch_size=2, capacity=len(PROMPT) + STEPS)
        tokens = model.forward([PROMPT, PROMPT], cache, counts=[len(PROMPT), 3])[:, -1].argmax(-1)
        made = [tokens]
        while len(made) < STEPS:
            tokens = model.forward(tokens[:, None], cache)[:, -1].argmax(-1)
            made.append(tokens)
        assert np.stack(made, axis=1).tolist() == [wanted, other], backend
