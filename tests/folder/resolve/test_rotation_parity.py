# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The frequencies that we read out of a config.json are those that Transformers makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genai_iface.folder.adjust._told_rotation import told_rotations

pytestmark = pytest.mark.parity

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3},
        {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4096},
        {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ],
    ids=["default", "linear", "dynamic", "llama3", "yarn", "yarn-not-truncated"],
)
@pytest.mark.parametrize("old", [False, True], ids=["rope_parameters", "rope_scaling"])
def test_frequencies_are_those_of_transformers(rope: dict[str, Any], old: bool) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    sizes = {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 131072}
    module = LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=rope))
    told = {"rope_theta": rope["rope_theta"], "rope_scaling": rope} if old else {"rope_parameters": rope}
    (found,) = told_rotations(sizes | told)
    wanted = module.inv_freq.numpy()
    np.testing.assert_allclose(found.frequencies(len(wanted)), wanted, rtol=1e-5)
