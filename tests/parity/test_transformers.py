# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Both backends against Transformers on torch: same tokens, same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import load_model
from tests.parity.checkpoints import STYLES, build_folder, make_checkpoint, torch_greedy

pytestmark = pytest.mark.parity

STEPS = 33  # the prefill's token and 32 decode steps
PROMPTS = ([5, 77, 23, 9, 111], [64, 3, 30], [12, 13, 14, 15, 16, 17, 18])


@pytest.mark.parametrize(("family", "style"), STYLES)
def test_ragged_greedy_decoding(family: str, style: str, tmp_path: Path) -> None:
    oracle = make_checkpoint(family, tmp_path / "checkpoint")
    folder = build_folder(tmp_path / "checkpoint", tmp_path / "onnx", static_cache=style == "scatter")
    greedy = [torch_greedy(oracle, prompt, STEPS) for prompt in PROMPTS]
    for backend in ("numpy", "ort"):
        model = load_model(folder, backend=backend)
        assert model.spec.cache.style == style
        got, cache = decode(model)
        for row, (tokens, expected) in enumerate(greedy):
            np.testing.assert_allclose(got[row], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
            assert got[row].argmax(-1).tolist() == tokens
        assert cache.update_mode == ("in_place" if style == "scatter" else "copied")


def decode(model: Any) -> tuple[np.ndarray, Any]:
    """The logits (3, STEPS, V) of a ragged prefill and greedy steps, and the cache."""
    counts = np.array([len(prompt) for prompt in PROMPTS])
    ids = np.zeros((len(PROMPTS), counts.max()), np.int64)
    for row, prompt in enumerate(PROMPTS):
        ids[row, : len(prompt)] = prompt
    cache = model.create_cache(batch_size=len(PROMPTS), capacity=64)
    logits = [model.forward(ids, cache, counts=counts)[:, 0]]
    while len(logits) < STEPS:
        logits.append(model.forward(logits[-1].argmax(-1)[:, None], cache)[:, 0])
    return np.stack(logits, axis=1), cache
