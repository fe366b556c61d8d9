# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The Llama-style checkpoints that the benchmarks run: random weights, realistic shapes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["SIZES", "build_standard", "make_checkpoint"]

SIZES: dict[str, dict[str, Any]] = {
    # The shape of SmolLM-135M.
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    # The shape of Llama 3.2 1B.
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
}


def make_checkpoint(size: str, folder: Path, *, context: int = 16384) -> Path:
    """Saves a seeded random checkpoint of one of ``SIZES`` unless it is there already."""
    path = folder / f"llama-{size}"
    if (path / "config.json").exists():
        return path
    import torch
    import transformers

    config = transformers.LlamaConfig(**SIZES[size], max_position_embeddings=context, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    partial.rename(path)
    return path


def build_standard(checkpoint: Path, *, capacity: int = 16384) -> Path:
    """Builds the standard opset-24 folder of a checkpoint with mobius-onnx unless it is there already."""
    path = checkpoint.with_name(f"{checkpoint.name}-onnx")
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "mobius", "build", "--config", str(checkpoint), str(partial)]
    command += ["--ep", "onnx-standard", "--static-cache", "--max-seq-len", str(capacity)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copy(checkpoint / "config.json", partial)
    partial.rename(path)
    return path
