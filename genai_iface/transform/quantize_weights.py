# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Weight matrices as blocked integers: DequantizeLinear before the MatMul, round to nearest, symmetric.

Not exact, and so none of the load-time rewrites: it makes a new model. The form, (K, N) integers
with blocks along K, is what ONNX Runtime turns into its fused low-bit product.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError
from genai_iface.folder.graph import input_at, is_op
from genai_iface.transform.edit import Editor, Lazy, constant_tensor, is_transpose
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["QuantizeWeights", "quantize_blocks"]

_INTEGERS: dict[int, tuple[Any, ir.DataType]] = {
    4: (ml_dtypes.int4, ir.DataType.INT4),
    8: (np.int8, ir.DataType.INT8),
}


class QuantizeWeights(Rewrite):
    """Quantises the constant matrices that MatMuls read.

    An embedding that the graph shares with the LM head stays a float table; the head gets a
    quantised copy of its own.

    Args:
        bits: 4 or 8.
        block_size: Rows of K that share a scale; a power of two of at least 16.

    Raises:
        InvalidInputError: An argument is out of range.
    """

    name = "quantize_weights"

    def __init__(self, bits: Literal[4, 8] = 4, *, block_size: int = 32) -> None:
        super().__init__()
        if bits not in _INTEGERS:
            raise InvalidInputError(f"bits={bits} is not legal", remedy="Legal: 4, 8.")
        if block_size < 16 or block_size & (block_size - 1):
            raise InvalidInputError(f"block_size={block_size} is not legal", remedy="Pass a power of two from 16 on.")
        self._bits = bits
        self._block_size = block_size

    def rewrite(self, model: ir.Model) -> Note:
        """Quantises in place; weights are read only when the model is saved."""
        edit = Editor(model.graph, "quantised")
        skipped: list[str] = []
        count = 0
        for node in list(model.graph):
            if not is_op(node, "MatMul"):
                continue
            matrix = _Matrix.behind(input_at(node, 1))
            if matrix is None:
                continue
            if matrix.rows % self._block_size:
                skipped.append(str(matrix.name))
                continue
            node.replace_input_with(1, self._dequantised(edit, node, matrix))
            count += 1
        reason = f"{count} matrices to int{self._bits} in blocks of {self._block_size}"
        if skipped:
            reason += f"; K is no multiple of the block in {', '.join(skipped)}"
        return self.said(count, reason)

    def _dequantised(self, edit: Editor, node: ir.Node, matrix: _Matrix) -> ir.Value:
        bits, block = self._bits, self._block_size
        integers = edit.weight(
            f"{matrix.name}.int{bits}",
            Lazy(
                lambda: quantize_blocks(matrix.read(), bits=bits, block_size=block)[0],
                _INTEGERS[bits][1],
                (matrix.rows, matrix.columns),
            ),
        )
        scales = edit.weight(
            f"{matrix.name}.scales",
            Lazy(
                lambda: quantize_blocks(matrix.read(), bits=bits, block_size=block)[1],
                matrix.dtype,
                (matrix.rows // block, matrix.columns),
            ),
        )
        (value,) = edit.before(node, "DequantizeLinear", [integers, scales], {"axis": 0, "block_size": block})
        value.dtype, value.shape = matrix.dtype, ir.Shape((matrix.rows, matrix.columns))
        return value


class _Matrix:
    """A constant (K, N), stored as such or transposed."""

    def __init__(self, tensor: ir.TensorProtocol, *, is_transposed: bool) -> None:
        self._tensor = tensor
        self._is_transposed = is_transposed
        first, second = tensor.shape.numpy()
        self.rows, self.columns = (second, first) if is_transposed else (first, second)
        self.name = tensor.name
        self.dtype = tensor.dtype

    @classmethod
    def behind(cls, value: ir.Value | None) -> _Matrix | None:
        """The float matrix behind the second input of a MatMul, None if it is no constant."""
        if value is None:
            return None
        producer = value.producer()
        is_transposed = producer is not None and is_transpose(producer, (1, 0))
        tensor = constant_tensor(input_at(producer, 0) if producer is not None and is_transposed else value)
        if tensor is None or len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
            return None
        return cls(tensor, is_transposed=is_transposed)

    def read(self) -> NDArray[Any]:
        array: NDArray[Any] = self._tensor.numpy()
        return array.T if self._is_transposed else array


def quantize_blocks(weight: NDArray[Any], /, *, bits: int, block_size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rounds a matrix to integers with one scale for each block of rows.

    The element of largest magnitude in a block becomes the most negative integer, which two's
    complement has one more of; nothing is clipped but what lies opposite to it.

    Args:
        weight: Float (K, N), K a multiple of the block size.
        bits: 4 or 8.
        block_size: Rows that share a scale.

    Returns:
        Integers (K, N) and scales (K / block_size, N) in the weight's dtype.
    """
    lowest = -(2 ** (bits - 1))
    blocks = weight.astype(np.float32).reshape(-1, block_size, weight.shape[1])
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
    scales = (largest / lowest).astype(weight.dtype)
    divisor = np.where(scales == 0, 1, scales.astype(np.float32))
    integers = np.clip(np.rint(blocks / divisor[:, None]), lowest, -lowest - 1)
    return integers.reshape(weight.shape).astype(np.int8).astype(_INTEGERS[bits][0]), scales
