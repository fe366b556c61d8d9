# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and perplexity against torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from genai_iface import GenerationConfig, TextGenerationPipeline, load_model
from genai_iface.generation._scoring import perplexity, score_tokens
from tests.fakes import ByteTokenizer
from tests.parity.checkpoints import build_folder, make_checkpoint

pytestmark = pytest.mark.parity

TOKENS = [5, 77, 23, 9, 111, 64, 3, 30, 12, 13, 14, 15, 16, 17, 18]


def test_log_probabilities_and_perplexity(tmp_path: Path) -> None:
    import torch

    oracle = make_checkpoint("llama", tmp_path / "checkpoint")
    folder = build_folder(tmp_path / "checkpoint", tmp_path / "onnx", static_cache=True)
    ids = torch.tensor([TOKENS])
    with torch.inference_mode():
        output = oracle(ids, labels=ids)
    every = torch.log_softmax(output.logits[0].double(), dim=-1)
    wanted = every[torch.arange(len(TOKENS) - 1), ids[0, 1:]].numpy()
    for backend in ("numpy", "ort"):
        model = load_model(folder, backend=backend)
        found = score_tokens(model, TOKENS, 1, num_top=3, chunk_size=4)
        np.testing.assert_allclose([entry.logprob for entry in found], wanted, atol=2e-5)
        assert [entry.top[0][0] for entry in found] == every[:-1].argmax(-1).tolist()
        assert perplexity(model, TOKENS, window=None, stride=None) == pytest.approx(
            math.exp(float(output.loss)), rel=2e-5
        )
        pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer(), GenerationConfig(eos_token_id=2))
        result = pipe.generate(TOKENS, echo=True, logprobs=0, max_new_tokens=0)
        assert result.logprobs is not None
        np.testing.assert_allclose([entry.logprob for entry in result.logprobs[0][1:]], wanted, atol=2e-5)
        pipe.close()
