# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks of GGUF against the values that the package gguf reads, truncated files, and rules that split text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError
from tests.build.gguf_files import random_blocks, write_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

EXACT = ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "Q3_K", "Q6_K")
AFFINE = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")


def dequantized(parts: object) -> NDArray[np.float32]:
    """As DequantizeLinear computes it."""
    integers, scales, zero_points = parts  # type: ignore[misc]
    repeat = integers.shape[1] // scales.shape[1]
    points = 0 if zero_points is None else zero_points.astype(np.float32).repeat(repeat, axis=1)
    return (integers.astype(np.float32) - points) * scales.repeat(repeat, axis=1)


@pytest.mark.parametrize("kind", EXACT)
def test_types_without_offset_are_exact(kind: str) -> None:
    from genai_iface.build.gguf import blocks

    number, data = gguf.GGMLQuantizationType[kind], random_blocks(kind)
    parts = blocks.own_parts(data, number, "w")
    limit = 2 ** (blocks.EXACT[number].bits - 1)
    assert -limit <= parts.integers.min() < parts.integers.max() < limit
    assert np.array_equal(dequantized(parts), gguf.dequantize(data, number))


@pytest.mark.parametrize("kind", AFFINE)
def test_types_with_offset_are_nearer_than_rounding(kind: str) -> None:
    from genai_iface.build.gguf import blocks
    from genai_iface.transform.quantize._blocks import dequantize_blocks, quantize_blocks

    number, data = gguf.GGMLQuantizationType[kind], random_blocks(kind, rows=16)
    values = gguf.dequantize(data, number)
    near = dequantized(blocks.nearest_bytes(data, number, "w"))
    block = blocks.AFFINE[number].block
    for symmetric in (True, False):
        rounded = dequantize_blocks(quantize_blocks(values.T, bits=8, block_size=block, symmetric=symmetric)).T
        assert np.square(near - values).sum() < 0.7 * np.square(rounded - values).sum()


def test_offsets_that_are_multiples_are_exact() -> None:
    from genai_iface.build.gguf import blocks

    data = random_blocks("Q4_1", rows=3)
    data.reshape(-1, 20)[:, :4] = np.array([0.5, -3.5], np.float16).view(np.uint8)
    parts = blocks.nearest_bytes(data, gguf.GGMLQuantizationType.Q4_1, "w")
    assert np.array_equal(dequantized(parts), gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_1))


def test_a_block_far_from_zero_is_rounded() -> None:
    from genai_iface.build.gguf import blocks

    data = random_blocks("Q4_1", rows=2)
    data.reshape(-1, 20)[:, :4] = np.array([0.01, 7.0], np.float16).view(np.uint8)
    data.reshape(-1, 20)[0, :4] = 0
    values = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_1)
    near = dequantized(blocks.nearest_bytes(data, gguf.GGMLQuantizationType.Q4_1, "w"))
    assert np.abs(near - values).max() <= np.abs(values).max() / 254 * 1.001
    assert not near.reshape(-1, 32)[0].any()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_a_scale_that_is_no_number_is_refused(kind: str) -> None:
    from genai_iface.build.gguf import blocks

    data = random_blocks(kind)
    data[1, :2] = np.array([np.nan], np.float16).view(np.uint8)
    read = blocks.own_parts if kind == "Q8_0" else blocks.nearest_bytes
    with pytest.raises(InvalidInputError, match=r"blk\.0\.w holds a scale that is NaN"):
        read(data, gguf.GGMLQuantizationType[kind], "blk.0.w")


def test_truncated_files_are_called_truncated(tmp_path: Path) -> None:
    from genai_iface.build.gguf import check_whole

    whole = write_gguf(tmp_path / "model.gguf", {}, default="Q8_0", pre="gpt-2")
    check_whole(whole)
    content = whole.read_bytes()
    part = tmp_path / "part.gguf"
    for length in (5, 30, 200, len(content) // 4, len(content) - 64):
        part.write_bytes(content[:length])
        with pytest.raises(InvalidInputError, match=rf"'part.gguf' is truncated: it has {length} bytes"):
            check_whole(part)
    part.write_bytes(b"GGML" + content[4:])
    with pytest.raises(InvalidInputError, match="not a GGUF file"):
        check_whole(part)
    part.write_bytes(content[:4] + b"\0\0\0\3" + content[8:])
    with pytest.raises(InvalidInputError, match="its version is 50331648"):
        check_whole(part)


TEXT = "Don't they'LL  x1234 = 5678;\n\n\tif (a!=b) // naïve – 北京 2024年\r\n  ΑΒΓδε ½ 한국어 कविता fooBarBAZ\n"


def test_every_rule_splits_as_its_expressions_say() -> None:
    """The engine of tokenizers and the module regex are two: they agree on what the expressions mean."""
    regex = pytest.importorskip("regex")
    from genai_iface.build.gguf.pre_tokenizers import KNOWN, pre_tokenizer

    for name, rule in KNOWN.items():
        pieces = [TEXT]
        for expression in rule.expressions:
            parts = [regex.split(f"({_without_groups(expression)})", piece) for piece in pieces]
            pieces = [part for found in parts for part in found if part]
        split = pre_tokenizer(rule.expressions).pre_tokenize_str(TEXT)
        assert [TEXT[begin:end] for _, (begin, end) in split] == pieces, name


def _without_groups(expression: str) -> str:
    """No rule has a group that captures."""
    assert "(" not in expression.replace("(?", "").replace("[^(", "").replace("&'(", ""), expression
    return expression


@pytest.mark.parametrize(
    ("rule", "pieces"),
    [
        ("gpt-2", [" x", "1234", " ="]),
        ("smollm", [" x", "1", "2", "3", "4", " ="]),
        ("llama-bpe", [" x", "123", "4", " ="]),
        ("qwen2", [" x", "1", "2", "3", "4", " ="]),
        ("deepseek-llm", [" x", "1234", " ="]),
        ("tekken", [" x", "1", "2", "3", "4", " ="]),
        ("gpt-4o", [" x", "123", "4", " ="]),
    ],
)
def test_rules_differ_in_digits(rule: str, pieces: list[str]) -> None:
    from genai_iface.build.gguf.pre_tokenizers import KNOWN, pre_tokenizer

    text = " x1234 ="
    split = pre_tokenizer(KNOWN[rule].expressions).pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in split] == pieces
