# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A model of realistic size that copies: it says again what stood ``period`` tokens before.

It is a Llama of the shape "135m" whose weights were set, not learned. In the first layer all heads attend to the
position ``period - 1`` tokens back: queries and keys are constants, and the rotation of the keys is advanced by just
that distance. Values are a part of the embedding, which the output layer, tied to the embedding, reads again. The
other layers are random and cost what they always cost, but their output is scaled down to next to nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoint import SIZES, make_checkpoint

__all__ = ["make_copying_checkpoint"]

# How sharply the heads look at one position, and how loud the copied token is beside the last one.
_SHARPNESS = 30.0
_LOUDNESS = 30.0
_QUIET = 1e-4
_NUM_ROTATIONS = 10


def make_copying_checkpoint(period: int, folder: Path) -> Path:
    """Makes the checkpoint ``llama-copying-PERIOD``, once."""
    path = folder / f"llama-copying-{period}"
    if not path.exists():
        from safetensors.numpy import load_file, save_file

        plain = make_checkpoint("135m", folder)
        weights = load_file(plain / "model.safetensors")
        _set_weights(weights, period)
        partial = path.with_suffix(".partial")
        shutil.copytree(plain, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        partial.rename(path)
    return path


def _set_weights(weights: dict[str, NDArray[Any]], period: int) -> None:
    size = SIZES["135m"]
    hidden, heads, kv_heads = size["hidden_size"], size["num_attention_heads"], size["num_key_value_heads"]
    dim = hidden // heads
    # Each token has a constant entry, and a random direction.
    embedding = np.random.default_rng(0).normal(size=(size["vocab_size"], hidden)).astype(np.float32)
    # All are equally long, or a long one would draw the heads.
    embedding[:, 0] = 0
    embedding *= np.sqrt(hidden - 1) / np.linalg.norm(embedding, axis=1, keepdims=True)
    embedding[:, 0] = 1
    weights["model.embed_tokens.weight"] = embedding
    for name, matrix in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            matrix *= np.float32(_QUIET)  # noqa: PLW2901 - in place
    first = {
        part: np.zeros_like(weights[f"model.layers.0.self_attn.{part}_proj.weight"]) for part in ("q", "k", "v", "o")
    }
    # The rotation that a key would have if it stood so much later; the halves of a head are its coordinates.
    angles = (period - 1) * 10000.0 ** (-2 * np.arange(dim // 2) / dim)
    # The slow rotations tell no neighbours apart.
    query = np.where(np.arange(dim) < _NUM_ROTATIONS, 1.0, 0.0)
    first["q"][:, 0] = _SHARPNESS * np.tile(query, heads)
    first["k"][:, 0] = _SHARPNESS * np.tile(np.concatenate([np.cos(angles), np.sin(angles)]), kv_heads)
    for head in range(kv_heads):
        for at in range(dim):
            source = 1 + head * dim + at
            first["v"][head * dim + at, source] = 1
            # The query heads of a group see the same values; the first of them says them.
            first["o"][source, head * (heads // kv_heads) * dim + at] = _LOUDNESS
    for part, matrix in first.items():
        weights[f"model.layers.0.self_attn.{part}_proj.weight"] = matrix
