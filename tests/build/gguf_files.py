# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny GGUF files of Llama's kind, written with the package gguf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_blocks", "write_gguf"]

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 64, 96, 4, 2, 264
_CONTEXT = 128
# Where blocks of the types whose scales gguf cannot choose have float16 numbers.
_HALVES = {"Q3_K": (108,), "Q6_K": (208,), "IQ4_NL": (0,), "Q2_K": (80, 82), "Q4_K": (0, 2), "Q5_K": (0, 2)}


def random_blocks(kind: str, rows: int = 4, blocks: int = 2) -> NDArray[np.uint8]:
    """Rows of blocks with random content and scales that are ordinary numbers."""
    import gguf

    draw = np.random.default_rng(0)
    number = gguf.GGMLQuantizationType[kind]
    size, nbytes = gguf.GGML_QUANT_SIZES[number]
    if kind not in _HALVES:
        return gguf.quantize(draw.standard_normal((rows, blocks * size)).astype(np.float32), number)
    data = draw.integers(0, 256, (rows * blocks, nbytes), dtype=np.uint8)
    for begin in _HALVES[kind]:
        halves = (draw.random((rows * blocks, 1)) + 0.1).astype(np.float16)
        data[:, begin : begin + 2] = halves.view(np.uint8)
    return data.reshape(rows, blocks * nbytes)


def write_gguf(
    path: Path, kinds: Mapping[str, str], *, default: str = "F32", tied: bool = True, layers: int = 1, **tokenizer: Any
) -> Path:
    """A decoder with random weights.

    Args:
        path: The file.
        kinds: Type of a matrix by a part of its name in the file, such as "attn_q".
        default: Type of the other matrices.
        tied: The token table is the head too.
        layers: Their number.
        **tokenizer: ``pre`` writes a byte-level vocabulary with that rule (None for no rule).
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    if tokenizer:
        _add_tokenizer(writer, tokenizer["pre"])
    draw = np.random.default_rng(1)
    shapes = {"token_embd": (VOCABULARY, HIDDEN), "output_norm": (HIDDEN,)}
    if not tied:
        shapes["output"] = VOCABULARY, HIDDEN
    for layer in range(layers):
        narrow = HIDDEN * KV_HEADS // HEADS
        for name, shape in {
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (narrow, HIDDEN),
            "attn_v": (narrow, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    for name, shape in shapes.items():
        values = draw.standard_normal(shape).astype(np.float32)
        kind = next((kind for part, kind in kinds.items() if part in name), default)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", 1 + 0.1 * values)
            continue
        number = gguf.GGMLQuantizationType[kind]
        values *= 0.15
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, rule: str | None) -> None:
    """Every byte, "12" and a word with its space, so that the rule decides what is merged."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, "12", "Ġa", "<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    if rule is not None:
        writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_token_merges(["1 2", "Ġ a"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
