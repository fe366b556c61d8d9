# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A weight as a quantized checkpoint has it: integers, a scale for each group of rows, perhaps zero points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError, UnsupportedModelError

__all__ = ["IntegerMatrix", "IntegerParts", "dequantized", "groups_of", "numpy_of", "unpacked"]


class IntegerParts(NamedTuple):
    """The numbers of a matrix, rows in the order of their groups.

    Attributes:
        integers: int8 or uint8 (K, N).
        scales: Float (groups, N), in the checkpoint's own type.
        zero_points: As the integers, (groups, N); None where they are zero.
    """

    integers: NDArray[Any]
    scales: NDArray[Any]
    zero_points: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class IntegerMatrix:
    """One quantized weight; it is read when its parts are asked for.

    Attributes:
        name: The name that the float weight would have.
        rows: K, what a product sums over.
        columns: N, the outputs.
        bits: 2, 4 or 8.
        is_signed: Whether the integers are.
        has_zero_points: Whether there are zero points.
        group: Rows with one scale; the last group may be shorter.
        order: int64 (K,): row i of the parts is row order[i] of the weight; None if they are in order.
        scale_dtype: The type of the scales in the checkpoint, as NumPy names it.
        read: Gives the parts.
        values: Gives the float weight (K, N) where the integers are only near it; None where they are what it is.
    """

    name: str
    rows: int
    columns: int
    bits: int
    is_signed: bool
    has_zero_points: bool
    group: int
    order: NDArray[np.int64] | None
    scale_dtype: str
    read: Callable[[], IntegerParts]
    values: Callable[[], NDArray[np.float32]] | None = None


def dequantized(matrix: IntegerMatrix, dtype: str) -> NDArray[np.float32]:
    """The float matrix (K, N), rows in the weight's own order: (integer - zero point) * scale.

    The scales are rounded to ``dtype`` first, as they are in a graph of that type. The product of a float16 or
    bfloat16 scale with such an integer is exact in float32; who wants ``dtype`` rounds once.
    """
    parts = matrix.read()
    scales = parts.scales.astype(dtype).astype(np.float32)
    values = parts.integers.astype(np.float32)
    if parts.zero_points is not None:
        values -= _spread(parts.zero_points.astype(np.float32), matrix)
    values *= _spread(scales, matrix)
    if matrix.order is None:
        return values
    placed = np.empty_like(values)
    placed[matrix.order] = values
    return placed


def unpacked(words: NDArray[np.int32], bits: int, axis: int, count: int) -> NDArray[np.uint8]:
    """Unsigned numbers of 2, 4 or 8 bits from words of 32, the lowest bits first.

    Args:
        words: int32 (A, B).
        bits: Of each number.
        axis: Along which the numbers were packed.
        count: Numbers along that axis; what pads the last word is dropped.

    Returns:
        uint8 of the same shape, but ``count`` along the axis.
    """
    lines = np.ascontiguousarray(words if axis == 1 else words.T).view(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    numbers = ((lines[:, :, None] >> shifts) & np.uint32(2**bits - 1)).astype(np.uint8)
    numbers = numbers.reshape(len(lines), -1)[:, :count]
    return numbers if axis == 1 else np.ascontiguousarray(numbers.T)


def groups_of(
    g_idx: NDArray[Any] | None, rows: int, groups: int, name: str, group_size: object = None
) -> tuple[int, NDArray[np.int64] | None]:
    """Rows in a group, and the order of the rows where groups are not made of neighbours (act-order).

    Args:
        g_idx: (K,), the group of each row; None or empty if they are neighbours.
        rows: K.
        groups: Their number.
        name: Of the matrix, for messages.
        group_size: What the settings say, for where there is no g_idx.

    Raises:
        InvalidInputError: The groups do not make K rows.
        UnsupportedModelError: Groups differ in size.
    """
    if g_idx is None or not len(g_idx):
        group = rows if groups == 1 else group_size if isinstance(group_size, int) else rows // max(groups, 1)
        if group <= 0 or -(-rows // group) != groups:
            raise InvalidInputError(
                f"{name}: {groups} groups of {group} rows do not make {rows} rows", remedy="Copy the checkpoint again."
            )
        return group, None
    counts = np.bincount(np.maximum(g_idx, 0), minlength=groups)
    group = int(counts[0])
    ends = np.minimum(np.arange(1, len(counts) + 1) * group, rows)
    is_known = len(g_idx) == rows and len(counts) == groups and g_idx.min() >= 0
    if not is_known or group == 0 or not np.array_equal(np.cumsum(counts), ends):
        raise UnsupportedModelError(
            f"{name}: g_idx does not make {groups} groups of equal size ({counts.min()} to {counts.max()} rows)",
            remedy="Build from the original weights, with --quantize int4.",
        )
    order = np.argsort(g_idx, kind="stable").astype(np.int64)
    return group, None if np.array_equal(order, np.arange(rows)) else order


def numpy_of(tensor: Any) -> NDArray[Any]:
    """A torch tensor as an array; NumPy has no bfloat16 of its own."""
    if str(tensor.dtype) == "torch.bfloat16":
        import torch

        array: NDArray[Any] = tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array
    plain: NDArray[Any] = tensor.numpy()
    return plain


def _spread(values: NDArray[np.float32], matrix: IntegerMatrix) -> NDArray[np.float32]:
    """One value for each row from one for each group."""
    if len(values) == 1:
        return values
    return np.repeat(values, matrix.group, axis=0)[: matrix.rows]
