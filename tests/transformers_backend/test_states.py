# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The Transformers backend on models that keep states, against their networks run on whole sequences without cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import CacheRewindError, Capability, load_model

pytestmark = pytest.mark.parity

BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
ALONE = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 16, "expand": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "lfm2": {**BASE, "layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {**BASE, **LINEAR},
    "falcon_h1": {**BASE, **MAMBA, "mamba_d_ssm": 64},
    "mamba2": {name: BASE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")} | ALONE,
}
# Whether layers of attention keep keys and values beside the states.
WITHOUT_KEYS = {"mamba2"}


@pytest.fixture(scope="module", params=CONFIGS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name = request.param
    path: Path = tmp_path_factory.mktemp("checkpoints") / name
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **CONFIGS[name]), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.1)
    network.save_pretrained(path)
    return name, load_model(path, backend="transformers"), network


def whole(network: Any, tokens: list[int]) -> np.ndarray:
    """The logits (T, V) of a sequence that runs at once and keeps nothing."""
    import torch

    with torch.inference_mode():
        logits: np.ndarray = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    return logits


def test_steps_and_ways_back(loaded: tuple[str, Any, Any]) -> None:
    name, model, network = loaded
    assert model.capabilities >= {Capability.STATE, Capability.REWIND_STEP, Capability.CHECKPOINT}
    assert Capability.REWIND not in model.capabilities
    assert bool(model.spec.cache.layers) == (name not in WITHOUT_KEYS)
    ids = np.random.default_rng(3).integers(3, 90, (2, 20))
    cache = model.create_cache(batch_size=2, capacity=32)
    rows: list[list[int]] = [[], []]

    def step(counts: tuple[int, int], begin: int) -> None:
        width = max(counts)
        logits = model.forward(ids[:, begin : begin + width], cache, counts=np.array(counts), logits="all")
        for row, count in enumerate(counts):
            rows[row] += ids[row, begin : begin + count].tolist()
            if count:
                wanted = whole(network, rows[row])[-count:]
                np.testing.assert_allclose(logits[row, :count], wanted, atol=2e-5 * max(1, np.abs(wanted).max()))

    for at, counts in enumerate(((5, 3), (2, 0), (1, 1), (3, 4))):
        step(counts, 3 * at)
    lengths = cache.lengths
    cache.checkpoint()
    step((2, 1), 12)
    assert cache.can_rewind_to(lengths)
    assert not cache.can_rewind_to(lengths - 1)
    step((1, 1), 14)
    with pytest.raises(CacheRewindError, match="it can go to 0, "):
        cache.rewind_to(lengths - 1)
    cache.rewind_to(lengths)
    rows = [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
    step((2, 2), 16)
    cache.reorder([1, 0])
    rows = [rows[1], rows[0]]
    twin = cache.fork()
    step((1, 1), 18)
    assert twin.lengths.tolist() == [len(row) - 1 for row in rows]
    cache.reset([0])
    rows[0] = []
    step((2, 1), 18)
