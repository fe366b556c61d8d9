# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Matrices in blocks of small integers, each block with a scale and a zero point, as DequantizeLinear takes them.

Scales and zero points follow from a matrix's name and shape alone, so models of one shape differ in the codes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "Codes", "codes_of", "is_quantized", "packed", "representable_in_blocks"]

BLOCK = 16
"""Inputs of a matrix that share a scale and a zero point."""

# Bits: the least zero point, how many there are, the largest magnitude of a weight in steps, steps of a unit.
_BITS = {8: (120, 16, 100, 32.0), 4: (6, 4, 6, 2.5)}
_EIGHT, _FOUR = ("q", "k", "v", "o"), ("gate", "up", "down")


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix (inputs, outputs) in blocks of its inputs.

    Attributes:
        bits: 8 or 4.
        codes: uint8 (inputs, outputs).
        scales: float64 (blocks, outputs), powers of two.
        zero_points: uint8 (blocks, outputs).
    """

    bits: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float64]
    zero_points: NDArray[np.uint8]

    def stored(self) -> bytes:
        """The codes as ONNX stores them: of two with four bits the first lies in the lower half."""
        flat = self.codes.reshape(-1)
        return flat.tobytes() if self.bits == 8 else packed(flat)


def packed(codes: NDArray[np.uint8]) -> bytes:
    """Codes of four bits, two in a byte."""
    flat = codes.reshape(-1)
    return np.asarray(flat[::2] | flat[1::2] << 4, np.uint8).tobytes()


def is_quantized(name: str) -> bool:
    """Whether a weight of a quantized plan is a matrix in blocks."""
    return name.rpartition(".")[2] in (*_EIGHT, *_FOUR)


def representable_in_blocks(name: str, values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Rounds values * scale to what the blocks of that matrix can say."""
    _, _, limit, _ = _BITS[_bits(name)]
    step = np.repeat(_scales(name, values.shape), BLOCK, axis=0)
    return np.asarray(np.clip(np.rint(values * scale / step), -limit, limit) * step)


def codes_of(name: str, matrix: NDArray[np.float64]) -> Codes:
    """A matrix that ``representable_in_blocks`` gave."""
    bits = _bits(name)
    scales, zero_points = _scales(name, matrix.shape), _zero_points(bits, matrix.shape)
    wide = np.repeat(scales, BLOCK, axis=0), np.repeat(zero_points, BLOCK, axis=0)
    return Codes(bits, (matrix / wide[0] + wide[1]).astype(np.uint8), scales, zero_points)


def _bits(name: str) -> int:
    return 8 if name.rpartition(".")[2] in _EIGHT else 4


def _scales(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Every second block has steps twice as wide."""
    step = 2.0 ** np.round(np.log2(shape[0] ** -0.5 / _BITS[_bits(name)][3]))
    blocks = np.arange(shape[0] // BLOCK)[:, None]
    return np.asarray(np.broadcast_to(step * (1.0 + blocks % 2), (len(blocks), shape[1])))


def _zero_points(bits: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Neighbors differ, along both axes."""
    least, number, _, _ = _BITS[bits]
    blocks, columns = np.arange(shape[0] // BLOCK)[:, None], np.arange(shape[1])
    return np.asarray(least + (7 * blocks + columns) % number, np.uint8)
