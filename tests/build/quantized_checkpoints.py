# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tiny quantized checkpoints number by number, as their formats are published, beside plain ones of equal value.

The integers, scales and zero points are random: what a real quantizer would choose does not matter here. Nothing is
shared with the readers; packing is done with Python integers, one number at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Numbers:
    """What one weight (K, N) is made of; ``group_of`` says the group of each row."""

    integers: NDArray[Any]
    scales: NDArray[Any]
    zero_points: NDArray[Any]
    group_of: NDArray[Any]

    def floats(self) -> NDArray[np.float32]:
        """(K, N), each element by itself in Python: exact, and float32 holds it."""
        rows, columns = self.integers.shape
        result = np.zeros((rows, columns), np.float32)
        for row in range(rows):
            group = self.group_of[row]
            for column in range(columns):
                number = int(self.integers[row, column]) - int(self.zero_points[group, column])
                result[row, column] = number * float(self.scales[group, column])
        return result


@dataclass
class Written:
    """A quantized checkpoint, the plain one of equal value, and the numbers by the name of the weight."""

    folder: Path
    plain: Path
    numbers: dict[str, Numbers] = field(default_factory=dict)


def draw(
    rng: np.random.Generator, rows: int, columns: int, group: int, *, low: int, high: int, order: bool = False
) -> Numbers:
    """Random numbers in low .. high; with ``order`` the rows of a group are not neighbours."""
    groups = -(-rows // group)
    group_of = np.arange(rows) // group
    if order:
        group_of = rng.permutation(group_of)
    scales = (rng.uniform(0.004, 0.02, (groups, columns)) * rng.choice([1, -1], (groups, columns))).astype(np.float16)
    return Numbers(
        rng.integers(low, high + 1, (rows, columns)),
        scales,
        rng.integers(max(low, -(high // 2)), high + 1, (groups, columns)),
        group_of,
    )


def word(numbers: list[int], bits: int) -> int:
    """Unsigned numbers in one int32, the first in the lowest bits."""
    value = sum(number << (bits * place) for place, number in enumerate(numbers))
    return value - 2**32 if value >= 2**31 else value


def packed(array: NDArray[Any], bits: int, axis: int) -> NDArray[np.int32]:
    """A matrix of unsigned numbers packed along an axis; the last word is filled with zeros."""
    lines = array if axis == 1 else array.T
    per_word = 32 // bits
    words = [
        [word([int(number) for number in line[at : at + per_word]], bits) for at in range(0, len(line), per_word)]
        for line in lines
    ]
    result = np.array(words, np.int64).astype(np.int32)
    return result if axis == 1 else np.ascontiguousarray(result.T)


def gptq_tensors(numbers: Numbers, *, bits: int = 4, version: int = 1, g_idx: bool = True) -> dict[str, NDArray[Any]]:
    stored = (numbers.zero_points - (1 if version == 1 else 0)) % 2**bits
    tensors = {
        "qweight": packed(numbers.integers, bits, 0),
        "qzeros": packed(stored, bits, 1),
        "scales": numbers.scales,
    }
    return {**tensors, "g_idx": numbers.group_of.astype(np.int32)} if g_idx else tensors


def awq_tensors(numbers: Numbers) -> dict[str, NDArray[Any]]:
    def interleaved(array: NDArray[Any]) -> NDArray[np.int32]:
        rows = [
            [word([int(line[at + place]) for place in AWQ_ORDER], 4) for at in range(0, len(line), 8)] for line in array
        ]
        return np.array(rows, np.int64).astype(np.int32)

    return {
        "qweight": interleaved(numbers.integers),
        "qzeros": interleaved(numbers.zero_points),
        "scales": numbers.scales,
    }


def compressed_tensors(numbers: Numbers, *, bits: int = 4, symmetric: bool = True) -> dict[str, NDArray[Any]]:
    """pack-quantized: offset by half of the range, (N, K)."""
    half = 2 ** (bits - 1)
    tensors = {
        "weight_packed": packed(numbers.integers.T + half, bits, 1),
        "weight_scale": np.ascontiguousarray(numbers.scales.T),
        "weight_shape": np.array(numbers.integers.T.shape, np.int64),
    }
    if not symmetric:
        tensors["weight_zero_point"] = packed(numbers.zero_points.T + half, bits, 0)
    return tensors


def byte_tensors(numbers: Numbers, *, symmetric: bool = True) -> dict[str, NDArray[Any]]:
    """int-quantized: a byte for each number, (N, K)."""
    tensors = {
        "weight": np.ascontiguousarray(numbers.integers.T.astype(np.int8)),
        "weight_scale": np.ascontiguousarray(numbers.scales.T),
    }
    if not symmetric:
        tensors["weight_zero_point"] = np.ascontiguousarray(numbers.zero_points.T.astype(np.int8))
    return tensors


def write(
    path: Path,
    settings: dict[str, Any],
    make: Callable[[Numbers], dict[str, NDArray[Any]]],
    *,
    group: int = 32,
    low: int = 0,
    high: int = 15,
    order: bool = False,
    symmetric: bool = False,
    skip: tuple[str, ...] = ("lm_head", "embed_tokens"),
    family: str = "llama",
    seed: int = 0,
) -> Written:
    """Quantizes the matrices of a tiny decoder, but those whose name has a word of ``skip``.

    Args:
        path: Both checkpoints are written below it.
        settings: ``quantization_config``.
        make: The tensors of one weight.
        group: Rows with one scale; -1 for all.
        low, high: The range of the integers.
        order: Act-order: groups are not neighbours.
        symmetric: Zero points in the middle of the range.
        skip: Words in the names of what stays float.
        family: Of the decoder.
        seed: Of the numbers.
    """
    from safetensors.numpy import load_file, save_file

    from genai_iface.build._families import make_checkpoint

    written = Written(path / "quantized", path / "plain")
    make_checkpoint(family, written.plain)
    weights = load_file(written.plain / "model.safetensors")
    rng = np.random.default_rng(seed)
    quantized = {}
    for name, weight in list(weights.items()):
        if weight.ndim != 2 or any(one in name for one in skip):
            quantized[name] = weight
            continue
        columns, rows = weight.shape if family != "gpt2" else weight.shape[::-1]
        numbers = draw(rng, rows, columns, rows if group == -1 else group, low=low, high=high, order=order)
        if symmetric:
            numbers.zero_points[:] = (low + high + 1) // 2
        written.numbers[name] = numbers
        floats = numbers.floats()
        weights[name] = np.ascontiguousarray(floats if family == "gpt2" else floats.T)
        stem = name.removesuffix(".weight")
        quantized |= {f"{stem}.{part}": tensor for part, tensor in make(numbers).items()}
    save_file(weights, written.plain / "model.safetensors", {"format": "pt"})
    written.folder.mkdir()
    save_file(quantized, written.folder / "model.safetensors", {"format": "pt"})
    config = json.loads((written.plain / "config.json").read_text())
    (written.folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return written
