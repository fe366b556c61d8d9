# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Folders as ONNX Runtime GenAI's model builder writes them, from tiny random checkpoints, and its own logits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.model_files import write_tokenizer_files
from tests.parity.checkpoints import make_checkpoint

_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0 + 0.1 * place for place in range(8)],
    "original_max_position_embeddings": 32,
}

GENAI_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    # With a window in genai_config.json only, ONNX Runtime GenAI 0.18 fails once it is passed.
    "mistral": ("mistral", {"sliding_window": None}),
    "phi": ("phi", {"hidden_size": 128}),
    "phi3": ("phi3", {"sliding_window": None, "original_max_position_embeddings": 128}),
    "phi3-longrope": ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": _LONG_ROPE}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gpt-oss": (
        "gpt_oss",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "intermediate_size": 64,
        },
    ),
    "granite": ("granite", {}),
    "nemotron": ("nemotron", {"hidden_size": 128}),
    "olmo": ("olmo", {}),
    "smollm3": ("smollm3", {}),
    "ernie4_5": ("ernie4_5", {"head_dim": 16}),
}
"""Model type and configuration by a name of our own."""


def write_checkpoint(family: str, path: Path, **overrides: Any) -> tuple[Path, Any]:
    """Saves a tiny random checkpoint with a tokenizer; returns its path and the torch model."""
    import transformers

    kind, fields = GENAI_FAMILIES[family]
    model = make_checkpoint(kind, path, **{**fields, **overrides})
    if family == "phi3-longrope":
        # The builder reads the field's older names.
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config["rope_parameters"]["type"] = "longrope"
        config["original_max_position_embeddings"] = 32
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tokenizer_files(path)
    # The builder reads the tokenizer's files in the present Transformers form.
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), **names)
    tokenizer.save_pretrained(path)
    return path, model


def build_genai(checkpoint: Path, out: Path, precision: str, *options: str, provider: str = "cpu") -> Path:
    """Runs the builder on a checkpoint."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "tiny", "-i", str(checkpoint)]
    command += ["-o", str(out), "-p", precision, "-e", provider]
    command += ["--extra_options", *options] if options else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The tokenizer is a byte-level one with more ids than the model has.
    (out / "tokenizer.json").unlink()
    config = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
    config["model"] |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (out / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    return out


def genai_steps(folder: Path, prompt: Sequence[int], steps: int) -> Iterator[tuple[np.ndarray, int]]:
    """Greedy decoding by ONNX Runtime GenAI: the logits of each step and the token that it chose."""
    import onnxruntime_genai as og

    vendor = og.Model(str(folder))
    parameters = og.GeneratorParams(vendor)
    parameters.set_search_options(max_length=len(prompt) + steps, do_sample=False)
    generator = og.Generator(vendor, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    for _ in range(steps):
        logits = np.asarray(generator.get_logits()).reshape(-1).astype(np.float32)
        generator.generate_next_token()
        yield logits, int(generator.get_sequence(0)[-1])
