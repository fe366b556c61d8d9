# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The scale of a block by search: what gives the smallest squared error, each row weighted by how much it matters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.transform.quantize._blocks import QuantizedBlocks, quantize_blocks

__all__ = ["best_scales", "search_blocks"]

# Parts of the scale at which nothing is clipped. Below, the largest elements are clipped and the others are nearer.
_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_OTHER_SIDE = (-1.1, -1.0, -0.9)
_FACTORS_OF_BYTES = (1.0,)


def best_scales(
    blocks: NDArray[np.float32], importance: NDArray[np.float32], bits: int, dtype: Any
) -> NDArray[np.float32]:
    """Scales of symmetric integers, (n, N).

    Args:
        blocks: (n, block, N).
        importance: Weight of the squared error of each row, (n, block, 1).
        bits: 4 or 8.
        dtype: The scales' type in the file, to which they are rounded.
    """
    lowest = -(2 ** (bits - 1))
    highest, deepest = blocks.max(axis=1), blocks.min(axis=1)
    base = np.where(highest > -deepest, highest, deepest) / np.float32(lowest)
    # The side with the larger element gets the integer more, or, where that is better, the other one.
    factors = _FACTORS_OF_BYTES if bits == 8 else (*_FACTORS, *_OTHER_SIDE)
    found = _Best(blocks, importance, lowest)
    for factor in factors:
        found.offer((base * np.float32(factor)).astype(dtype).astype(np.float32))
    found.offer(_fitted(blocks, importance, found.scales, lowest).astype(dtype).astype(np.float32))
    return found.scales


class _Best:
    """The best scales of those that were offered."""

    def __init__(self, blocks: NDArray[np.float32], importance: NDArray[np.float32], lowest: int) -> None:
        self._blocks, self._importance, self._lowest = blocks, importance, lowest
        shape = blocks.shape[0], blocks.shape[2]
        self._error = np.full(shape, np.inf, np.float32)
        self.scales = np.zeros(shape, np.float32)

    def offer(self, scales: NDArray[np.float32]) -> None:
        """Takes them for the blocks in which they are better."""
        rounded = _rounded(self._blocks, scales, self._lowest)
        rounded *= scales[:, None]
        rounded -= self._blocks
        np.square(rounded, out=rounded)
        rounded *= self._importance
        error = rounded.sum(axis=1)
        is_better = error < self._error
        self._error = np.where(is_better, error, self._error)
        self.scales = np.where(is_better, scales, self.scales)


def search_blocks(
    weight: NDArray[Any],
    /,
    *,
    bits: int,
    block_size: int,
    symmetric: bool = True,
    name: str | None = None,
    importance: NDArray[np.float32] | None = None,
) -> QuantizedBlocks:
    """As ``quantize_blocks``, with scales by search where integers are symmetric.

    Args:
        weight: Float (K, N), K a multiple of the block size.
        bits: 4 or 8.
        block_size: Rows that share a scale.
        symmetric: Signed integers around zero; with zero points there is no search.
        name: The weight's name, for the error.
        importance: (K,), the mean square of what each row is multiplied with; all alike if None.

    Raises:
        InvalidInputError: The weight holds NaN or infinity.
    """
    plain = quantize_blocks(weight, bits=bits, block_size=block_size, symmetric=symmetric, name=name)
    if not symmetric:
        return plain
    blocks = weight.astype(np.float32, copy=False).reshape(-1, block_size, weight.shape[1])
    rows = np.ones(len(weight), np.float32) if importance is None else importance
    scales = best_scales(blocks, rows.reshape(-1, block_size, 1), bits, weight.dtype)
    integers = _rounded(blocks, scales, -(2 ** (bits - 1)))
    return QuantizedBlocks(integers.astype(np.int8).reshape(weight.shape), scales.astype(weight.dtype), None)


def _rounded(blocks: NDArray[np.float32], scales: NDArray[np.float32], lowest: int) -> NDArray[np.float32]:
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)
    rounded: NDArray[np.float32] = blocks / divisor[:, None]
    np.rint(rounded, out=rounded)
    return np.clip(rounded, lowest, -lowest - 1, out=rounded)


def _fitted(
    blocks: NDArray[np.float32], importance: NDArray[np.float32], scales: NDArray[np.float32], lowest: int
) -> NDArray[np.float32]:
    """The scales with the least squared error for the integers that these give."""
    integers = _rounded(blocks, scales, lowest)
    weighted = integers * importance
    above, below = (weighted * blocks).sum(axis=1), (weighted * integers).sum(axis=1)
    fitted: NDArray[np.float32] = np.where(below > 0, above / np.where(below > 0, below, 1), scales)
    return fitted
