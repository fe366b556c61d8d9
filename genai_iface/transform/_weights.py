# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Weight matrices as rewrites see them: plain, or dequantized in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Editor, Lazy, constant_tensor
from genai_iface.graph._walk import attribute, input_at, is_op

__all__ = ["Matrix", "concatenated", "copied", "matrix_of", "sizes", "transposed"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A constant (K, N), as a MatMul reads it.

    Attributes:
        parts: The float matrix alone, or integers, scales and perhaps zero points, as initializers.
        axis: The blocked axis of integers, -1 for a float matrix.
        block: Block size, 0 for a float matrix.
        dequantize: The DequantizeLinear node, None for a float matrix.
    """

    parts: tuple[ir.Value, ...]
    axis: int = -1
    block: int = 0
    dequantize: ir.Node | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What has to be equal for two matrices to be joined along N."""
        rows = tuple(sizes(_tensor(part))[0] for part in self.parts)
        return self.axis, self.block, tuple(_tensor(part).dtype for part in self.parts), rows

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        rows, columns = sizes(_tensor(self.parts[0]))
        return rows, columns

    @property
    def dtype(self) -> ir.DataType:
        """Element type of the dequantized matrix."""
        return _tensor(self.parts[0] if len(self.parts) == 1 else self.parts[1]).dtype


def matrix_of(value: ir.Value | None) -> Matrix | None:
    """The constant matrix behind a value, None if it is none of the two kinds."""
    if value is None:
        return None
    node = value.producer()
    if node is None or is_op(node, "Constant"):
        tensor = constant_tensor(value)
        return Matrix((value,)) if tensor is not None and len(tensor.shape) == 2 else None
    if not is_op(node, "DequantizeLinear"):
        return None
    parts = [part for part in (input_at(node, 0), input_at(node, 1), input_at(node, 2)) if part is not None]
    block, axis = attribute(node, "block_size", 0), attribute(node, "axis", 1)
    tensors = [constant_tensor(part) for part in parts]
    if block == 0 or any(tensor is None or len(tensor.shape) != 2 for tensor in tensors):
        return None
    return Matrix(tuple(parts), axis % 2, block, node)


def concatenated(edit: Editor, place: ir.Node, stem: str, matrices: Sequence[Matrix]) -> ir.Value:
    """Matrices of one kind side by side, before a node. Weights are joined when they are read."""
    columns = sum(matrix.shape[1] for matrix in matrices)
    joined = []
    for index in range(len(matrices[0].parts)):
        tensors = [_tensor(matrix.parts[index]) for matrix in matrices]
        shape = (sizes(tensors[0])[0], sum(sizes(tensor)[1] for tensor in tensors))
        joined.append(edit.weight(f"{stem}.{index}", Lazy(_Join(tensors), tensors[0].dtype, shape)))
    return _dequantized(edit, place, joined, matrices[0], (matrices[0].shape[0], columns))


def transposed(edit: Editor, place: ir.Node, stem: str, matrix: Matrix) -> ir.Value:
    """The transposed matrix, before a node."""
    flipped = []
    for index, part in enumerate(matrix.parts):
        tensor = _tensor(part)
        flipped.append(edit.weight(f"{stem}.{index}", Lazy(_Flip(tensor), tensor.dtype, sizes(tensor)[::-1])))
    other = Matrix(
        matrix.parts, 1 - matrix.axis if matrix.dequantize is not None else -1, matrix.block, matrix.dequantize
    )
    return _dequantized(edit, place, flipped, other, matrix.shape[::-1])


def copied(edit: Editor, place: ir.Node, stem: str, matrix: Matrix) -> ir.Value:
    """The same matrix from constants of its own, before a node; both names read one tensor."""
    parts = []
    for index, part in enumerate(matrix.parts):
        tensor = _tensor(part)
        parts.append(edit.weight(f"{stem}.{index}", Lazy(tensor.numpy, tensor.dtype, sizes(tensor))))
    return _dequantized(edit, place, parts, matrix, matrix.shape)


def sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a constant, which has no symbols."""
    return tuple(size for size in tensor.shape if isinstance(size, int))


def _dequantized(
    edit: Editor, place: ir.Node, parts: Sequence[ir.Value], like: Matrix, shape: Sequence[int]
) -> ir.Value:
    """Parts as one float value, dequantized where the matrix they come from is."""
    if like.dequantize is None:
        return parts[0]
    (value,) = edit.before(place, "DequantizeLinear", parts, {"axis": like.axis, "block_size": like.block})
    value.dtype, value.shape = like.dtype, ir.Shape(shape)
    return value


class _Join:
    """Joins tensors along axis 1 when called."""

    def __init__(self, tensors: Sequence[ir.TensorProtocol]) -> None:
        self._tensors = tuple(tensors)

    def __call__(self) -> NDArray[Any]:
        return np.concatenate([tensor.numpy() for tensor in self._tensors], axis=1)


class _Flip:
    """Transposes a tensor when called."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self._tensor = tensor

    def __call__(self) -> NDArray[Any]:
        return np.ascontiguousarray(self._tensor.numpy().T)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = constant_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name!r} is not a constant")
    return tensor
