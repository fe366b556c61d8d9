# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The Llama-style checkpoints that the benchmarks run: random weights, realistic shapes.

Everything is made once and kept in a working folder; each step is finished under another name first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = ["CONTEXT", "SIZES", "Weights", "build_for_genai", "build_standard", "make_checkpoint"]

Weights: TypeAlias = Literal["fp32", "int4"]

CONTEXT = 16384

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


def make_checkpoint(size: str, folder: Path) -> Path:
    """A seeded random Transformers checkpoint of one of ``SIZES``, with a byte-level tokenizer."""

    def make(path: Path) -> None:
        import torch
        import transformers
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        config = transformers.LlamaConfig(
            **SIZES[size], max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2
        )
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
        alphabet = {byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)

    return _once(folder / f"llama-{size}", make)


def build_standard(checkpoint: Path, weights: Weights) -> Path:
    """The standard opset-24 folder of a checkpoint, by mobius-onnx; int4 through our own rewrite."""

    def build(path: Path) -> None:
        command = ["mobius", "build", "--config", str(checkpoint), str(path), "--ep", "onnx-standard"]
        _run([*command, "--static-cache", "--max-seq-len", str(CONTEXT)])
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(checkpoint / name, path)

    plain = _once(checkpoint.with_name(f"{checkpoint.name}-standard-fp32"), build)
    if weights == "fp32":
        return plain

    def quantize(path: Path) -> None:
        import onnx_ir as ir

        from genai_iface.transform.quantize_weights import QuantizeWeights

        shutil.copytree(plain, path, ignore=shutil.ignore_patterns("model.onnx*"))
        model = ir.load(plain / "model.onnx")
        QuantizeWeights(4, block_size=32)(model)
        ir.save(model, path / "model.onnx", external_data="model.onnx.data")

    return _once(checkpoint.with_name(f"{checkpoint.name}-standard-{weights}"), quantize)


def build_for_genai(checkpoint: Path, weights: Weights) -> Path:
    """The folder that ONNX Runtime GenAI's own builder makes of the checkpoint."""

    def build(path: Path) -> None:
        command = ["onnxruntime_genai.models.builder", "-m", "llama", "-i", str(checkpoint), "-o", str(path)]
        _run([*command, "-p", weights, "-e", "cpu", "-c", str(path.with_suffix(".cache"))])

    return _once(checkpoint.with_name(f"{checkpoint.name}-genai-{weights}"), build)


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.exists():
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        make(partial)
        partial.rename(path)
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
