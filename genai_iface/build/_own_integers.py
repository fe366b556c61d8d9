# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the integers of a quantized checkpoint into a graph that was made with its dequantized weights. Exact."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.build._own_tables import replace_lookup, table_of
from genai_iface.build.checkpoint.integers import IntegerMatrix, IntegerParts, dequantized
from genai_iface.graph._edit import Editor, Lazy, constant_tensor, copy_type, replace_value
from genai_iface.graph._walk import attribute, input_at, is_op
from genai_iface.transform.quantize._source import FloatMatrix, source_of
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["OwnIntegers"]

_TYPES: dict[tuple[int, bool], tuple[Any, ir.DataType]] = {
    (4, True): (ml_dtypes.int4, ir.DataType.INT4),
    (4, False): (ml_dtypes.uint4, ir.DataType.UINT4),
    (8, True): (np.int8, ir.DataType.INT8),
    (8, False): (np.uint8, ir.DataType.UINT8),
}
# What runtimes fuse: a power of two in this range.
_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 128
_MIN_IR_VERSION = 10


class OwnIntegers(Rewrite):
    """Replaces float matrices of products by a blocked DequantizeLinear of the integers that they were made of.

    A matrix is known by its content: exporters rename weights, and turn them round, but what the integers stand for
    has to be in the graph to the bit. So nothing is replaced by something else. Rows that act-order has sorted stay
    sorted; the product's input is gathered in that order. A token table is looked up in bytes, and shares those of the
    product that reads the same table.

    Args:
        matrices: The weights of the checkpoint.
        dtype: Of the graph's weights.

    Attributes:
        kept: Names of weights that stay dequantized: nothing reads them as they are.
        error: Root mean square of what the new weights differ by, as a part of that of the weights; 0 where the
            integers are exact.
    """

    name = "own-integers"

    def __init__(self, matrices: Sequence[IntegerMatrix], dtype: str) -> None:
        super().__init__()
        self._matrices = tuple(matrices)
        self._dtype = dtype
        self.kept: list[str] = []
        self.error = 0.0

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place; integers are read again when the model is saved."""
        edit = Editor(model.graph, "integers")
        targets = self._targets(model.graph)
        gathered: dict[tuple[ir.Value, bytes], ir.Value] = {}
        reader = _Reader()
        self.kept = []
        errors, total = 0.0, 0.0
        for matrix in self._matrices:
            values = dequantized(matrix, self._dtype)
            wanted = values if matrix.values is None else matrix.values()
            digest = _digest([wanted.astype(self._dtype).T])
            found = targets.get((matrix.rows, matrix.columns), {}).get(digest, [])
            _replace_all(edit, found, matrix, gathered, reader)
            if not found:
                self.kept.append(matrix.name)
            elif matrix.values is not None:
                errors += float(np.square(values - wanted, dtype=np.float64).sum())
                total += float(np.square(wanted, dtype=np.float64).sum())
        self.error = math.sqrt(errors / total) if total else 0.0
        count = len(self._matrices) - len(self.kept)
        if count:
            model.ir_version = max(model.ir_version, _MIN_IR_VERSION)
        kept = f"; {len(self.kept)} stay dequantized" if self.kept else ""
        return self.said(count, f"{count} matrices have the integers of the checkpoint{kept}")

    def _targets(self, graph: ir.Graph) -> dict[tuple[int, int], dict[bytes, list[ir.Node]]]:
        """Products with a constant matrix and lookups in one, by (K, N) and content."""
        wanted = {(matrix.rows, matrix.columns) for matrix in self._matrices}
        found: dict[tuple[int, int], dict[bytes, list[ir.Node]]] = {}
        for node in graph:
            source = _matrix_of(node) or table_of(node)
            if source is not None and (source.rows, source.columns) in wanted:
                place = found.setdefault((source.rows, source.columns), {})
                place.setdefault(_digest(_lines(source)), []).append(node)
        return found


def _matrix_of(node: ir.Node) -> FloatMatrix | None:
    """The float matrix (K, N) that a product reads."""
    weight = input_at(node, 1)
    if is_op(node, "MatMul"):
        source = source_of(weight)
        return source if isinstance(source, FloatMatrix) else None
    is_plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    tensor = constant_tensor(weight)
    if not is_op(node, "Gemm") or not is_plain or tensor is None or not tensor.dtype.is_floating_point():
        return None
    return FloatMatrix(tensor, is_transposed=bool(attribute(node, "transB", 0)))


def _lines(source: FloatMatrix) -> Iterator[NDArray[Any]]:
    """The content as (N, K), in pieces."""
    pieces = source.slices(source.rows)
    return (piece.T for _, _, piece in pieces)


def _digest(pieces: Any) -> bytes:
    """Of the bytes; zeros of both signs are one."""
    state = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        state.update(np.ascontiguousarray(piece + piece.dtype.type(0)).tobytes())
    return state.digest()


def _replace_all(
    edit: Editor,
    found: Sequence[ir.Node],
    matrix: IntegerMatrix,
    gathered: dict[tuple[ir.Value, bytes], ir.Value],
    reader: _Reader,
) -> None:
    """Products first: a lookup in the same table shares their bytes."""
    shared: list[ir.Value] = []
    for node in found:
        if not is_op(node, "Gather"):
            shared = _replace(edit, node, matrix, gathered, reader)
    for node in found:
        if is_op(node, "Gather") and matrix.order is None:
            # Gather takes no numbers of four bits, so a table has bytes.
            is_turned = bool(shared) and matrix.bits == 8
            parts = shared if is_turned else _parts(edit, matrix, _type_of(node.inputs[0]), reader, for_lookup=True)
            replace_lookup(edit, node, parts, _block(matrix), is_turned=is_turned)


def _type_of(weight: ir.Value | None) -> ir.DataType:
    return ir.DataType.FLOAT if weight is None or weight.dtype is None else weight.dtype


def _replace(
    edit: Editor,
    node: ir.Node,
    matrix: IntegerMatrix,
    gathered: dict[tuple[ir.Value, bytes], ir.Value],
    reader: _Reader,
) -> list[ir.Value]:
    """One product; gives the parts that it reads now."""
    given = input_at(node, 0)
    if given is None:
        return []
    dtype = _type_of(node.inputs[1])
    rows = _in_order(edit, node, given, matrix.order, gathered)
    parts = _parts(edit, matrix, dtype, reader)
    (value,) = edit.before(node, "DequantizeLinear", parts, {"axis": 0, "block_size": _block(matrix)})
    value.dtype, value.shape = dtype, ir.Shape((matrix.rows, matrix.columns))
    if is_op(node, "MatMul"):
        node.replace_input_with(0, rows)
        node.replace_input_with(1, value)
        return parts
    (result,) = edit.before(node, "MatMul", [rows, value])
    copy_type(node.outputs[0], result)
    if input_at(node, 2) is not None:
        (result,) = edit.before(node, "Add", [result, input_at(node, 2)])
        copy_type(node.outputs[0], result)
    result.shape = node.outputs[0].shape
    replace_value(node.outputs[0], result)
    return parts


def _in_order(
    edit: Editor,
    node: ir.Node,
    given: ir.Value,
    order: NDArray[np.int64] | None,
    gathered: dict[tuple[ir.Value, bytes], ir.Value],
) -> ir.Value:
    """The input of a product with its last axis in the order of the groups; products with one order share it."""
    if order is None:
        return given
    key = given, order.tobytes()
    if key not in gathered:
        index = edit.weight("order", ir.Tensor(order))
        (gathered[key],) = edit.before(node, "Gather", [given, index], {"axis": -1})
        copy_type(given, gathered[key])
        gathered[key].shape = given.shape
    return gathered[key]


def _parts(
    edit: Editor, matrix: IntegerMatrix, dtype: ir.DataType, reader: _Reader, *, for_lookup: bool = False
) -> list[ir.Value]:
    """Integers, scales and zero points as initializers that are read from the checkpoint when they are saved.

    Args:
        edit: Of the graph.
        matrix: The weight.
        dtype: Of the scales.
        reader: Reads the matrix.
        for_lookup: They are wanted as (N, K), in bytes.
    """
    numbers, kind = _TYPES[8 if for_lookup else max(matrix.bits, 4), matrix.is_signed]
    count = -(-matrix.rows // _block(matrix))
    made: list[tuple[str, ir.DataType, tuple[int, int], Callable[[IntegerParts], NDArray[Any]]]] = [
        (kind.name.lower(), kind, (matrix.rows, matrix.columns), lambda parts: parts.integers.astype(numbers)),
        ("scales", dtype, (count, matrix.columns), lambda parts: _blocked(parts.scales, matrix).astype(dtype.numpy())),
    ]
    if matrix.has_zero_points:

        def zero_points(parts: IntegerParts) -> NDArray[Any]:
            points = np.zeros(0) if parts.zero_points is None else parts.zero_points
            return _blocked(points, matrix).astype(numbers)

        made.append(("zero_points", kind, (count, matrix.columns), zero_points))
    if for_lookup:
        return [
            edit.weight(f"{matrix.name}.rows.{stem}", Lazy(partial(reader.turned, matrix, take), of, shape[::-1]))
            for stem, of, shape, take in made
        ]
    return [
        edit.weight(f"{matrix.name}.{stem}", Lazy(partial(reader.take, matrix, take), of, shape))
        for stem, of, shape, take in made
    ]


class _Reader:
    """Reads a matrix once for parts that are saved one after the other, and holds no other."""

    def __init__(self) -> None:
        self._last: tuple[IntegerMatrix, IntegerParts] | None = None

    def take(self, matrix: IntegerMatrix, take: Callable[[IntegerParts], NDArray[Any]]) -> NDArray[Any]:
        """One part."""
        if self._last is None or self._last[0] is not matrix:
            self._last = matrix, matrix.read()
        return take(self._last[1])

    def turned(self, matrix: IntegerMatrix, take: Callable[[IntegerParts], NDArray[Any]]) -> NDArray[Any]:
        """One part as (N, K)."""
        return np.ascontiguousarray(self.take(matrix, take).T)


def _block(matrix: IntegerMatrix) -> int:
    """Rows with one scale in the graph: a power of two where that divides the groups, for runtimes to fuse it."""
    if matrix.group >= matrix.rows:
        common = matrix.rows
    else:
        common = matrix.group if matrix.rows % matrix.group == 0 else math.gcd(matrix.rows, matrix.group)
    power = min(common & -common, _LARGEST_BLOCK)
    return power if power >= _SMALLEST_BLOCK else common


def _blocked(values: NDArray[Any], matrix: IntegerMatrix) -> NDArray[Any]:
    """A row for each block from a row for each group, (blocks, N)."""
    block = _block(matrix)
    if matrix.group == block or len(values) == -(-matrix.rows // block):
        return values
    group = min(matrix.group, matrix.rows)
    return np.repeat(values, group // block, axis=0)[: -(-matrix.rows // block)]
