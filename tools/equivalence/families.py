# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of the matrix: tiny, random, with a tokenizer that every tool reads."""

from __future__ import annotations

from pathlib import Path

from genai_iface.build._families import VOCAB_SIZE, Family, family_of, make_checkpoint

__all__ = ["NAMES", "write_checkpoint"]

NAMES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
    "granite",
    "smollm3",
    "stablelm",
    "starcoder2",
    "cohere",
    "glm4",
    "exaone4",
    "nemotron",
    "falcon",
    "gpt2",
    "gpt_neox",
    "mixtral",
    "lfm2",
    "qwen3_moe",
    "qwen3_5",
    "phi",
    "gpt_oss",
    "gemma",
    "olmo",
    "ernie4_5",
    "llama-llama3",
)
"""Of genai_iface.build: plain ones, with norms, windows, caps, partial and interleaved rotations, experts, states."""

# Without it the builder of ONNX Runtime GenAI takes its positions for scaled ones.
_MORE = {"phi3": {"original_max_position_embeddings": 128}}


def write_checkpoint(name: str, folder: Path) -> None:
    """Writes a family's checkpoint under another name first."""
    if folder.exists():
        return
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - the report needs names only
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    unfinished = folder.with_suffix(".part")
    family = family_of(name)
    make_checkpoint(Family(name, family.model_type, {**family.settings, **_MORE.get(name, {})}), unfinished)
    # The tools read a tokenizer's special tokens; nothing is tokenized.
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    words = ["<pad>", "<s>", "</s>", *(f"w{number}" for number in range(3, VOCAB_SIZE))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(unfinished)
    unfinished.replace(folder)
