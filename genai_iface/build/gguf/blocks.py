# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The block types of GGUF as integers with scales: exact where the type has no offset, else as near as 8 bits come.

The package gguf unpacks the blocks; here only the scales are read, and the integers are what its values are multiples
of. So every number is proved against another's reading of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError

__all__ = ["AFFINE", "EXACT", "Affine", "Exact", "GGUFParts", "nearest_bytes", "own_parts"]

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]


class Exact(NamedTuple):
    """A type whose values are multiples of a scale.

    Attributes:
        bits: 4 or 8, what the multiples fit in.
        block: Values with one scale.
        scales: From blocks (n, bytes) to (n, scales of a block).
    """

    bits: int
    block: int
    scales: Callable[[_Bytes], _Floats]


class Affine(NamedTuple):
    """A type whose values are ``scale * q + minimum``.

    Attributes:
        levels: The largest q.
        block: Values with one scale and minimum.
        parts: From blocks (n, bytes) to scales and minima, both (n, scales of a block).
    """

    levels: int
    block: int
    parts: Callable[[_Bytes], tuple[_Floats, _Floats]]


class GGUFParts(NamedTuple):
    """A matrix of (N, K) values as integers.

    Attributes:
        integers: int8 or uint8 (N, K).
        scales: float32 (N, K / block).
        zero_points: uint8 (N, K / block), None where they are zero.
    """

    integers: NDArray[Any]
    scales: _Floats
    zero_points: NDArray[np.uint8] | None


def _half(blocks: _Bytes, begin: int) -> _Floats:
    """One float16 of each block, (n, 1)."""
    half: _Floats = blocks[:, begin : begin + 2].copy().view(np.float16).astype(np.float32)
    return half


def _six_bits(blocks: _Bytes) -> _Floats:
    numbers = blocks[:, 192:208].copy().view(np.int8)
    return _half(blocks, 208) * numbers.astype(np.float32)


def _three_bits(blocks: _Bytes) -> _Floats:
    """Sixteen scales of six bits: four bits each in eight bytes, two bits each in four."""
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    nibbles = np.concatenate([low & 15, low >> 4], axis=1)
    pairs = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    numbers = (nibbles | (pairs << 4)).astype(np.int8) - np.int8(32)
    scales: _Floats = _half(blocks, 108) * numbers.astype(np.float32)
    return scales


def _one_minimum(blocks: _Bytes) -> tuple[_Floats, _Floats]:
    return _half(blocks, 0), _half(blocks, 2)


def _eight_minima(blocks: _Bytes) -> tuple[_Floats, _Floats]:
    """Eight scales and minima of six bits each in twelve bytes."""
    packed = blocks[:, 4:16]
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (rest & 15) | ((first >> 2) & 48)], axis=1)
    minima = np.concatenate([second & 63, (rest >> 4) | ((second >> 2) & 48)], axis=1)
    return _half(blocks, 0) * scales.astype(np.float32), -(_half(blocks, 2) * minima.astype(np.float32))


def _two_bits(blocks: _Bytes) -> tuple[_Floats, _Floats]:
    packed = blocks[:, :16]
    scales, minima = (packed & 15).astype(np.float32), (packed >> 4).astype(np.float32)
    return _half(blocks, 80) * scales, -(_half(blocks, 82) * minima)


_T = GGMLQuantizationType

EXACT = {
    _T.Q4_0: Exact(4, 32, lambda blocks: _half(blocks, 0)),
    _T.Q5_0: Exact(8, 32, lambda blocks: _half(blocks, 0)),
    _T.Q8_0: Exact(8, 32, lambda blocks: _half(blocks, 0)),
    _T.IQ4_NL: Exact(8, 32, lambda blocks: _half(blocks, 0)),
    _T.Q3_K: Exact(4, 16, _three_bits),
    _T.Q6_K: Exact(8, 16, _six_bits),
}
"""Types without an offset."""

AFFINE = {
    _T.Q4_1: Affine(15, 32, _one_minimum),
    _T.Q5_1: Affine(31, 32, _one_minimum),
    _T.Q2_K: Affine(3, 16, _two_bits),
    _T.Q4_K: Affine(15, 32, _eight_minima),
    _T.Q5_K: Affine(31, 32, _eight_minima),
}
"""Types with an offset of their own in each block, which is seldom a multiple of the scale."""


def own_parts(data: _Bytes, kind: GGMLQuantizationType, name: str) -> GGUFParts:
    """The integers of a type without offset. Their products with the scales are gguf's values, bit for bit.

    Args:
        data: uint8 (N, bytes of a row).
        kind: A key of ``EXACT``.
        name: Of the tensor, for messages.

    Raises:
        InvalidInputError: A scale is NaN or infinite.
    """
    form = EXACT[kind]
    values, scales = dequantize(data, kind), _in_rows(form.scales(_blocks(data, kind)), len(data))
    _check_finite(scales, name)
    blocks = values.reshape(len(data), -1, form.block)
    integers = np.rint(blocks / np.where(scales == 0, 1, scales)[:, :, None])
    if not np.array_equal(integers * scales[:, :, None], blocks):
        raise InvalidInputError(
            f"{name}: blocks of {kind.name} are not multiples of their scales",
            remedy="Update the package gguf, which unpacks them.",
        )
    return GGUFParts(integers.astype(np.int8).reshape(values.shape), scales, None)


def nearest_bytes(data: _Bytes, kind: GGMLQuantizationType, name: str) -> GGUFParts:
    """A type with offsets as unsigned bytes with zero points.

    The steps between the values of a block are kept; of all ways to divide the step, that one is taken at which
    the offset is nearest to a whole number of parts. Where that leaves the range, the block is rounded.

    Args:
        data: uint8 (N, bytes of a row).
        kind: A key of ``AFFINE``.
        name: Of the tensor, for messages.

    Raises:
        InvalidInputError: A scale is NaN or infinite.
    """
    form = AFFINE[kind]
    scales, minima = (_in_rows(part, len(data)) for part in form.parts(_blocks(data, kind)))
    _check_finite(scales, name)
    _check_finite(minima, name)
    values = dequantize(data, kind).reshape(len(data), -1, form.block)
    steps = np.where(scales == 0, 1, scales)
    best, division, shift = np.full(scales.shape, np.inf, np.float32), np.ones_like(scales), np.zeros_like(scales)
    for parts in range(255 // form.levels, 0, -1):
        offsets = minima * parts / steps
        whole = np.rint(offsets)
        error = np.abs(offsets - whole) * np.abs(steps) / parts
        fits = (parts * form.levels + np.maximum(whole, 0) <= 255) & (-whole <= 255) & (scales != 0)
        is_better = fits & (error < best)
        best, division = np.where(is_better, error, best), np.where(is_better, parts, division)
        shift = np.where(is_better, whole, shift)
    found = (steps / division).astype(np.float32)
    zero_points = np.maximum(-shift, 0)
    # Where nothing fits: the block around 128, rounded to the nearest.
    rounded = ~np.isfinite(best)
    widest = np.abs(values).max(axis=2) / np.float32(127)
    found = np.where(rounded, np.where(widest == 0, 1, widest), found)
    zero_points = np.where(rounded, 128, zero_points)
    integers = np.clip(np.rint(values / found[:, :, None] + zero_points[:, :, None]), 0, 255)
    return GGUFParts(integers.astype(np.uint8).reshape(len(data), -1), found, zero_points.astype(np.uint8))


def _blocks(data: _Bytes, kind: GGMLQuantizationType) -> _Bytes:
    return np.ascontiguousarray(data).reshape(-1, GGML_QUANT_SIZES[kind][1])


def _in_rows(parts: _Floats, rows: int) -> _Floats:
    return np.ascontiguousarray(parts, np.float32).reshape(rows, -1)


def _check_finite(scales: _Floats, name: str) -> None:
    if not np.isfinite(scales).all():
        raise InvalidInputError(f"{name} holds a scale that is NaN or infinite", remedy="Download the file again.")
