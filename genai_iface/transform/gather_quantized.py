# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Gathers the rows of a quantized table before they are dequantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Editor, Lazy, constant_tensor, copy_type, is_transpose, replace_value
from genai_iface.graph._walk import attribute, input_at, is_op, rank
from genai_iface.transform._weights import matrix_of, sizes
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["GatherQuantized"]

_FOUR_BITS = (ir.DataType.INT4, ir.DataType.UINT4)
_INTEGERS = (*_FOUR_BITS, ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Rows of a quantized table (V, H) or (H, V), dequantized.

    Attributes:
        integers, scales: The constants of the table.
        zero_points: None where they are zero.
        picked: The axis of V in the stored table.
        block: Elements of H with one scale.
        indices: The ids of the rows that are gathered.
        hidden_first: The result has H on its first axis, otherwise on its last.
        result: What the rest of the graph reads.
        place: The node that gives it.
    """

    integers: ir.TensorProtocol
    scales: ir.TensorProtocol
    zero_points: ir.TensorProtocol | None
    picked: int
    block: int
    indices: ir.Value
    hidden_first: bool
    result: ir.Value
    place: ir.Node


class GatherQuantized(Rewrite):
    """Gather of a dequantized table becomes: gather integers, scales and zero points, dequantize the rows.

    A runtime that does not fold the pair dequantizes the whole table in each step. The result is the
    same to the bit. The rows get constants of their own, so that a product with the same table can
    be fused. Four-bit tables are kept as bytes, two numbers in each, because Gather takes no four-bit
    type; 256 pairs of numbers unpack them.

    Precondition: a constant table (V, H) or (H, V) in blocks along H.
    """

    name = "gather-quantized"

    def rewrite(self, model: ir.Model) -> Note:
        """Rewrites every such lookup."""
        edit = Editor(model.graph, self.name.replace("-", "_"))
        reason = "no quantized table is looked up"
        count = 0
        for node in list(model.graph):
            found = _of_gather(node) if is_op(node, "Gather") else _of_rows(node)
            if isinstance(found, str):
                reason = found or reason
            elif found is not None:
                _replace(edit, found)
                count += 1
        return self.said(
            count, "rows of quantized tables are gathered before they are dequantized" if count else reason
        )


def _of_gather(node: ir.Node) -> _Lookup | str | None:
    """Gather(DequantizeLinear(table)), perhaps with a Transpose in between."""
    table, indices = node.inputs[0], node.inputs[1]
    before = None if table is None else table.producer()
    turned = before is not None and is_transpose(before, (1, 0))
    matrix = matrix_of(before.inputs[0] if turned and before is not None else table)
    if matrix is None or matrix.dequantize is None or indices is None:
        return None
    axis = attribute(node, "axis", 0) % 2
    picked = 1 - axis if turned else axis
    parts = [constant_tensor(part) for part in matrix.parts]
    return _checked(parts, picked, matrix.axis, matrix.block, indices, axis == 1, node)


def _of_rows(node: ir.Node) -> _Lookup | str | None:
    """DequantizeLinear(Gather(integers), Gather(scales)), where a runtime cannot gather the integers."""
    if not is_op(node, "DequantizeLinear"):
        return None
    gathers = [value.producer() for value in node.inputs if value is not None]
    if not all(is_op(gather, "Gather") for gather in gathers):
        return None
    known = [gather for gather in gathers if gather is not None]
    parts = [constant_tensor(input_at(gather, 0)) for gather in known]
    axes = {attribute(gather, "axis", 0) % 2 for gather in known}
    indices = {input_at(gather, 1) for gather in known}
    index, axis = indices.pop(), axes.pop()
    if indices or axes or index is None or any(part is None or len(part.shape) != 2 for part in parts):
        return None
    block, along, axes_of_rows = attribute(node, "block_size", 0), attribute(node, "axis", 1), rank(index)
    if axes_of_rows is None or block == 0:
        return None
    first = along % (axes_of_rows + 1) == 0
    last = along % (axes_of_rows + 1) == axes_of_rows
    if parts[0] is None or parts[0].dtype not in _FOUR_BITS or not (first if axis == 1 else last):
        return None
    return _checked(parts, axis, 1 - axis, block, index, axis == 1, node)


def _checked(
    parts: list[ir.TensorProtocol | None],
    picked: int,
    blocked: int,
    block: int,
    indices: ir.Value,
    hidden_first: bool,
    node: ir.Node,
) -> _Lookup | str:
    integers, scales = parts[0], parts[1]
    if integers is None or scales is None or integers.dtype not in _INTEGERS:
        return f"a quantized table holds {integers.dtype.name if integers is not None else 'no constants'}"
    if blocked == picked:
        return "the blocks of a table run along the gathered axis"
    if rank(indices) is None:
        return "the rank of the indices of a Gather is not known"
    if integers.dtype in _FOUR_BITS and sizes(integers)[blocked] % 2:
        return "the rows of a four-bit table have an odd length"
    zero_points = parts[2] if len(parts) > 2 else None
    return _Lookup(integers, scales, zero_points, picked, block, indices, hidden_first, node.outputs[0], node)


def _replace(edit: Editor, found: _Lookup) -> None:
    place, indices = found.place, found.indices

    def rows_of(stem: str, tensor: ir.TensorProtocol, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> ir.Value:
        make = _Rows(tensor, found.picked, convert)
        probe = convert(np.zeros((1, _columns(tensor, found.picked)), tensor.dtype.numpy()))
        rows = sizes(tensor)[found.picked]
        dtype = ir.DataType.from_numpy(probe.dtype)
        table = edit.weight(stem, Lazy(make, dtype, (rows, probe.shape[1])))
        return edit.before(place, "Gather", [table, indices], {"axis": 0})[0]

    is_four = found.integers.dtype in _FOUR_BITS
    integers = rows_of("integers", found.integers, _packed if is_four else _same)
    if is_four:
        integers = _unpacked(edit, place, integers, found)
    parts = [integers, rows_of("scales", found.scales, _same)]
    if found.zero_points is not None:
        parts.append(rows_of("zero_points", found.zero_points, _widened if is_four else _same))
    (result,) = edit.before(place, "DequantizeLinear", parts, {"axis": -1, "block_size": found.block})
    if found.hidden_first:
        axes = rank(indices) or 0
        (result,) = edit.before(place, "Transpose", [result], {"perm": [axes, *range(axes)]})
    copy_type(found.result, result)
    result.shape = found.result.shape
    replace_value(found.result, result)


def _unpacked(edit: Editor, place: ir.Node, packed: ir.Value, found: _Lookup) -> ir.Value:
    """Two numbers from each byte, the low half first."""
    every = np.arange(256, dtype=np.uint8)
    pairs = np.stack([every & 15, every >> 4], axis=1)
    if found.integers.dtype == ir.DataType.INT4:
        pairs = ((pairs ^ 8).astype(np.int8) - 8).astype(np.int8)
    (index,) = edit.before(place, "Cast", [packed], {"to": int(ir.DataType.INT32)})
    (numbers,) = edit.before(place, "Gather", [edit.weight("nibbles", ir.Tensor(pairs)), index], {"axis": 0})
    return edit.before(place, "Reshape", [numbers, edit.ints(*[0] * (rank(found.indices) or 0), -1)])[0]


def _columns(tensor: ir.TensorProtocol, picked: int) -> int:
    return sizes(tensor)[1 - picked]


def _same(array: NDArray[Any]) -> NDArray[Any]:
    return array


class _Rows:
    """Reads a table as (V, H) and converts it."""

    def __init__(self, tensor: ir.TensorProtocol, picked: int, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._tensor, self._picked, self._convert = tensor, picked, convert

    def __call__(self) -> NDArray[Any]:
        array = self._tensor.numpy()
        return self._convert(np.ascontiguousarray(array if self._picked == 0 else array.T))


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    """Four-bit numbers as bytes of the same value."""
    return array.astype(np.int8 if array.dtype == ml_dtypes.int4 else np.uint8)


def _packed(array: NDArray[Any]) -> NDArray[Any]:
    """Two four-bit numbers in each byte, the first in the low half."""
    halves = _widened(array).astype(np.uint8) & 15
    pairs: NDArray[Any] = halves[:, 0::2] | (halves[:, 1::2] << 4)
    return pairs
