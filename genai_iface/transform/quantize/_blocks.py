# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Round to nearest in blocks: the numbers, and nothing about graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError

__all__ = ["QuantizedBlocks", "dequantize_blocks", "quantize_blocks"]


class QuantizedBlocks(NamedTuple):
    """A matrix as DequantizeLinear takes it, blocks along axis 0.

    Attributes:
        integers: int8 or uint8 (K, N), of which four-bit numbers use the low half.
        scales: (K / block, N), in the weight's dtype.
        zero_points: uint8 (K / block, N), None where they are zero.
    """

    integers: NDArray[Any]
    scales: NDArray[Any]
    zero_points: NDArray[np.uint8] | None


def quantize_blocks(
    weight: NDArray[Any], /, *, bits: int, block_size: int, symmetric: bool = True, name: str | None = None
) -> QuantizedBlocks:
    """Rounds a matrix to integers with one scale for each block of rows and each column.

    Symmetric: the element of largest magnitude in a block becomes the most negative integer, which
    two's complement has one more of; nothing is clipped but what lies opposite to it. Asymmetric: the
    range of the block, zero included, is spread over the unsigned integers.

    Args:
        weight: Float (K, N), K a multiple of the block size.
        bits: 4 or 8.
        block_size: Rows that share a scale.
        symmetric: Signed integers around zero, or unsigned ones with a zero point.
        name: The weight's name, for the error.

    Raises:
        InvalidInputError: The weight holds NaN or infinity.
    """
    blocks = weight.astype(np.float32, copy=False).reshape(-1, block_size, weight.shape[1])
    highest, lowest = blocks.max(axis=1), blocks.min(axis=1)
    if not (np.isfinite(highest).all() and np.isfinite(lowest).all()):
        raise InvalidInputError(
            f"The weight {name!r} holds NaN or infinity, which no integer stands for",
            remedy="Repair the checkpoint, or exclude that weight.",
        )
    levels = 2**bits - 1
    if symmetric:
        most_negative = -(2 ** (bits - 1))
        largest = np.where(highest > -lowest, highest, lowest)
        scales = (largest / most_negative).astype(weight.dtype)
        integers = np.rint(blocks / _divisor(scales))
        np.clip(integers, most_negative, -most_negative - 1, out=integers)
        return QuantizedBlocks(integers.astype(np.int8).reshape(weight.shape), scales, None)
    np.minimum(lowest, 0, out=lowest)
    np.maximum(highest, 0, out=highest)
    scales = ((highest - lowest) / levels).astype(weight.dtype)
    divisor = _divisor(scales)
    zero_points = np.clip(np.rint(-lowest / divisor[:, 0]), 0, levels)
    integers = np.rint(blocks / divisor + zero_points[:, None])
    np.clip(integers, 0, levels, out=integers)
    return QuantizedBlocks(integers.astype(np.uint8).reshape(weight.shape), scales, zero_points.astype(np.uint8))


def dequantize_blocks(parts: QuantizedBlocks, /) -> NDArray[np.float32]:
    """The matrix that DequantizeLinear gives, before it is rounded to the scales' dtype.

    Args:
        parts: Integers (K, N) with blocks along axis 0.
    """
    count, columns = parts.scales.shape
    blocks = parts.integers.astype(np.float32).reshape(count, -1, columns)
    if parts.zero_points is not None:
        blocks -= parts.zero_points.astype(np.float32)[:, None]
    blocks *= parts.scales.astype(np.float32)[:, None]
    return blocks.reshape(parts.integers.shape)


def _divisor(scales: NDArray[Any]) -> NDArray[np.float32]:
    """The scales as they will be read, 1 for blocks of zeros; (K / block, 1, N)."""
    return np.where(scales == 0, 1, scales.astype(np.float32)).astype(np.float32)[:, None]
