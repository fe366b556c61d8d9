# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rounding whose errors are made up for: GPTQ (Frantar et al., 2022), with scales by search in each block.

A product's error is measured on what it is multiplied with in a text: X (tokens, K), of which only X'X is needed. The
rows of the matrix are rounded one after the other, and what a row loses is taken from the rows that follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.transform.quantize._blocks import QuantizedBlocks, quantize_blocks
from genai_iface.transform.quantize._search import best_scales

__all__ = ["compensated_blocks", "output_error"]

# Part of the mean of the diagonal that is added to it; ten times as much whenever that is not enough.
_DAMPING = 0.01
_MOST_DAMPING = 100.0


def compensated_blocks(
    weight: NDArray[Any],
    /,
    moments: NDArray[np.float32],
    *,
    bits: int,
    block_size: int,
    name: str | None = None,
) -> QuantizedBlocks:
    """Symmetric integers that keep the products of a matrix with a text.

    Args:
        weight: Float (K, N), K a multiple of the block size.
        moments: X'X of what it is multiplied with, (K, K).
        bits: 4 or 8.
        block_size: Rows that share a scale.
        name: The weight's name, for the error.

    Raises:
        InvalidInputError: The weight holds NaN or infinity.
    """
    # Refuses what is not finite.
    quantize_blocks(weight[:, :1], bits=bits, block_size=block_size, name=name)
    left = weight.astype(np.float32, copy=True)
    rows, columns = left.shape
    factor = _factor(moments)
    lowest = -(2 ** (bits - 1))
    integers = np.empty(left.shape, np.int8)
    scales = np.empty((rows // block_size, columns), weight.dtype)
    importance = (1 / np.square(np.diag(factor))).astype(np.float32)
    for begin in range(0, rows, block_size):
        stop = begin + block_size
        block = left[begin:stop]
        found = best_scales(block[None], importance[begin:stop].reshape(1, -1, 1), bits, weight.dtype)[0]
        scales[begin // block_size] = found
        divisor = np.where(found == 0, np.float32(1), found)
        errors = np.empty_like(block)
        for row in range(block_size):
            values = np.clip(np.rint(block[row] / divisor), lowest, -lowest - 1)
            integers[begin + row] = values
            errors[row] = (block[row] - values * found) / factor[begin + row, begin + row]
            block[row + 1 :] -= np.outer(factor[begin + row, begin + row + 1 : stop], errors[row])
        left[stop:] -= factor[begin:stop, stop:].T @ errors
    return QuantizedBlocks(integers, scales, None)


def output_error(weight: NDArray[Any], rounded: NDArray[Any], moments: NDArray[np.float32]) -> float:
    """The squared error of a product on the text, as a part of its square."""
    lost = (weight - rounded).astype(np.float32)
    whole = weight.astype(np.float32)
    error, size = (float(np.einsum("kn,kn->", moments @ part, part)) for part in (lost, whole))
    return error / size if size else 0.0


def _factor(moments: NDArray[np.float32]) -> NDArray[np.float32]:
    """The upper Cholesky factor of the inverse, (K, K)."""
    diagonal = np.diag(moments)
    mean = float(diagonal.mean()) or 1.0
    damping = _DAMPING
    while damping < _MOST_DAMPING:
        damped = moments.astype(np.float64)
        # Rows that meet only zeros matter to nobody.
        damped[np.diag_indices_from(damped)] += damping * mean
        try:
            factor: NDArray[np.float32] = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        if np.isfinite(factor).all():
            return factor
        damping *= 10
    return np.eye(len(moments), dtype=np.float32)
