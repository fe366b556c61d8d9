# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random Transformers checkpoints, their ONNX form by mobius-onnx, and greedy decoding by torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

VOCAB_SIZE = 131
CONTEXT = 96

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

# What sets a family apart, beyond the sizes: biases, norms on q and k, packed weights, scalings.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.7, "logits_scaling": 2.0},
    "phi3": {},
    "mistral": {"sliding_window": None},
}

# mobius-onnx 0.1 cannot build Granite with a static cache.
STYLES = [
    (family, style)
    for family in FAMILIES
    for style in ("scatter", "concat")
    if (family, style) != ("granite", "scatter")
]


def make_checkpoint(family: str, path: Path, **overrides: Any) -> Any:
    """Saves a seeded random checkpoint, some fields of its configuration replaced, and returns the torch model."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(family, **{**_SIZES, **FAMILIES.get(family, {}), **overrides})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    # The usual start of training gives nearly equal logits; wider weights give clear greedy choices.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.08)
    model.save_pretrained(path)
    return model


def build_folder(checkpoint: Path, out: Path, *, static_cache: bool) -> Path:
    """Builds the ONNX folder: TensorScatter with a static cache, or past and present tensors."""
    command = [sys.executable, "-m", "mobius", "build", "--config", str(checkpoint), str(out), "--ep", "onnx-standard"]
    if static_cache:
        command += ["--static-cache", "--max-seq-len", str(CONTEXT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copy(checkpoint / "config.json", out)
    return out


def torch_greedy(model: Any, prompt: Sequence[int], steps: int) -> tuple[list[int], np.ndarray]:
    """Greedy continuation without any cache: the tokens, and the logits (steps, V) that chose them."""
    import torch

    ids, rows = list(prompt), []
    with torch.inference_mode():
        for _ in range(steps):
            rows.append(model(torch.tensor([ids])).logits[0, -1].float().numpy())
            ids.append(int(rows[-1].argmax()))
    return ids[len(prompt) :], np.stack(rows)
