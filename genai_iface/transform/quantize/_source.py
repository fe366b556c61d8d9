# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Constant matrices that are read slice by slice and rounded, so that one is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import constant_tensor, is_transpose
from genai_iface.graph._walk import input_at, is_op
from genai_iface.transform._weights import matrix_of, sizes
from genai_iface.transform.quantize._blocks import QuantizedBlocks, dequantize_blocks, quantize_blocks
from genai_iface.transform.quantize._compensate import compensated_blocks
from genai_iface.transform.quantize._search import search_blocks

__all__ = ["FloatMatrix", "Job", "MatrixReport", "MatrixSource", "Rounding", "round_slice", "source_of"]

# Bytes of a weight that are in memory as floats at once.
_SLICE_BYTES = 16 << 20
# The same where all rows of a column are needed at once.
_WHOLE_BYTES = 256 << 20

Part = Literal["integers", "scales", "zero_points"]
_TYPES: dict[tuple[int, bool], tuple[Any, ir.DataType]] = {
    (4, True): (ml_dtypes.int4, ir.DataType.INT4),
    (4, False): (ml_dtypes.uint4, ir.DataType.UINT4),
    (8, True): (np.int8, ir.DataType.INT8),
    (8, False): (np.uint8, ir.DataType.UINT8),
}


class MatrixSource(Protocol):
    """A constant (K, N) that can be read in slices.

    Attributes:
        name: Of the weight.
        rows: K, the axis that a product sums over.
        columns: N, the outputs.
        dtype: Element type of the float matrix.
        tensor: The constant that holds it.
    """

    name: str
    rows: int
    columns: int
    dtype: ir.DataType
    tensor: ir.TensorProtocol

    def slices(self, block_size: int, /) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
        """Rows, columns and content of one slice after the other; rows begin and end between blocks."""


class FloatMatrix:
    """A float matrix, stored as (K, N) or as (N, K). Files are read, not mapped: mapped pages would add up."""

    def __init__(self, tensor: ir.TensorProtocol, *, is_transposed: bool, name: str | None = None) -> None:
        self.tensor = tensor
        self.is_transposed = is_transposed
        first, second = sizes(tensor)
        self.rows, self.columns = (second, first) if is_transposed else (first, second)
        self.name = str(name or tensor.name)
        self.dtype = tensor.dtype

    def slices(self, block_size: int, /) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
        """One slice after the other."""
        count, width = sizes(self.tensor)
        # Pairs of columns stay together, for four-bit numbers share a byte.
        unit = 2 if self.is_transposed else block_size
        step = max(unit, _SLICE_BYTES // (4 * width) // unit * unit)
        whole = None if isinstance(self.tensor, ir.ExternalTensor) else self.tensor.numpy()
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = self._read(start, stop) if whole is None else whole[start:stop]
            if self.is_transposed:
                yield slice(0, self.rows), slice(start, stop), part.T
            else:
                yield slice(start, stop), slice(0, self.columns), part

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of the stored matrix, from its file."""
        tensor = self.tensor
        if not isinstance(tensor, ir.ExternalTensor):
            raise TypeError(f"{self.name!r} lies in no file")
        dtype, width = tensor.dtype.numpy(), sizes(tensor)[1]
        row_bytes = width * dtype.itemsize
        content = np.fromfile(
            tensor.path, np.uint8, (stop - start) * row_bytes, offset=(tensor.offset or 0) + start * row_bytes
        )
        return content.view(dtype).reshape(stop - start, width)


class _QuantizedMatrix:
    """A matrix that is quantized already, read as floats again."""

    def __init__(self, parts: list[ir.TensorProtocol], axis: int, *, is_transposed: bool) -> None:
        self._parts = parts
        self._flip = is_transposed
        self._blocked = axis
        first, second = sizes(parts[0])
        self.rows, self.columns = (second, first) if is_transposed else (first, second)
        self.tensor = parts[0]
        self.name = str(parts[0].name)
        self.dtype = parts[1].dtype

    def slices(self, block_size: int, /) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
        """One slice of columns after the other."""
        arrays = [_widened(part) for part in self._parts]
        if self._blocked == 1:
            arrays = [array.T for array in arrays]
        # Now blocks run along axis 0; the matrix that a MatMul reads may be the other way round.
        is_turned = self._flip != (self._blocked == 1)
        integers, scales = arrays[0], arrays[1]
        zero_points = arrays[2] if len(arrays) > 2 else None
        step = max(2, _SLICE_BYTES // (4 * len(integers)) // 2 * 2)
        if is_turned:
            step = max(block_size, step // block_size * block_size)
        for start in range(0, integers.shape[1], step):
            columns = slice(start, min(start + step, integers.shape[1]))
            points = None if zero_points is None else zero_points[:, columns]
            part = dequantize_blocks(QuantizedBlocks(integers[:, columns], scales[:, columns], points))
            part = part.astype(scales.dtype, copy=False)
            if is_turned:
                yield columns, slice(0, self.columns), part.T
            else:
                yield slice(0, self.rows), columns, part


def source_of(value: ir.Value | None, *, quantized: bool = False) -> MatrixSource | None:
    """The constant matrix that a MatMul reads as its second input, None if there is none.

    Args:
        value: The second input of the MatMul.
        quantized: Look for a dequantized matrix, otherwise for a float one.
    """
    if value is None:
        return None
    producer = value.producer()
    is_transposed = producer is not None and is_transpose(producer, (1, 0))
    inner = input_at(producer, 0) if producer is not None and is_transposed else value
    if not quantized:
        tensor = constant_tensor(inner)
        if tensor is None or len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
            return None
        return FloatMatrix(tensor, is_transposed=is_transposed, name=None if inner is None else inner.name)
    matrix = matrix_of(inner)
    if matrix is None or matrix.dequantize is None or not is_op(matrix.dequantize, "DequantizeLinear"):
        return None
    parts = [constant_tensor(part) for part in matrix.parts]
    known = [part for part in parts if part is not None]
    return _QuantizedMatrix(known, matrix.axis, is_transposed=is_transposed)


@dataclass(frozen=True, slots=True)
class Job:
    """How one matrix is to be rounded.

    Attributes:
        source: The matrix (K, N).
        bits: 4 or 8.
        block: Rows of K with one scale.
        symmetric: Without zero points.
        flip: The parts are wanted as (N, K), with blocks along the last axis.
        search: Scales by search instead of from the largest element.
        moments: X'X (K, K) of what the matrix is multiplied with: errors are made up for. None if it is not known.
    """

    source: MatrixSource
    bits: int
    block: int
    symmetric: bool
    flip: bool = False
    search: bool = False
    moments: NDArray[np.float32] | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in the order in which DequantizeLinear takes them."""
        return ("integers", "scales") if self.symmetric else ("integers", "scales", "zero_points")

    def dtype(self, part: Part) -> ir.DataType:
        """Element type of a part."""
        return self.source.dtype if part == "scales" else _TYPES[self.bits, self.symmetric][1]

    def shape(self, part: Part) -> tuple[int, int]:
        """Shape of a part."""
        rows = self.source.rows if part == "integers" else self.source.rows // self.block
        return (self.source.columns, rows) if self.flip else (rows, self.source.columns)


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """What rounding cost a matrix.

    Attributes:
        name: Of the weight.
        bits: 4 or 8.
        block: Rows with one scale.
        error: Root mean square of what its elements lost, as a part of that of the elements.
    """

    name: str
    bits: int
    block: int
    error: float


class Rounding:
    """Rounds matrices when their parts are asked for, and holds the parts of the last one only.

    Args:
        reports: Gets a line for each matrix.
    """

    def __init__(self, reports: list[MatrixReport]) -> None:
        self._reports = reports
        self._job: Job | None = None
        self._parts: dict[Part, ir.TensorProtocol] = {}

    def lazy(self, job: Job, part: Part) -> ir.LazyTensor:
        """A part that is computed when it is read. Parts read one after the other are computed once."""
        return ir.LazyTensor(lambda: self._take(job, part), job.dtype(part), ir.Shape(job.shape(part)), cache=False)

    def _take(self, job: Job, part: Part) -> ir.TensorProtocol:
        if self._job is not job or part not in self._parts:
            self._parts.clear()
            self._job = job
            self._parts, error = _rounded(job)
            self._reports.append(MatrixReport(job.source.name, job.bits, job.block, error))
        return self._parts.pop(part)


def _rounded(job: Job) -> tuple[dict[Part, ir.TensorProtocol], float]:
    """The parts of a matrix, and what it lost."""
    lost, size = 0.0, 0.0
    found: dict[Part, _Assembly] = {part: _Assembly(job, part) for part in job.parts}
    for rows, columns, content in _contents(job):
        pieces = round_slice(job, rows, content)
        rounded = dequantize_blocks(pieces)
        rounded -= content.astype(np.float32, copy=False)
        lost += float(np.vdot(rounded, rounded))
        wide = np.ascontiguousarray(content, np.float32)
        size += float(np.vdot(wide, wide))
        blocks = slice(rows.start // job.block, rows.stop // job.block)
        for part, assembly in found.items():
            assembly.put(rows if part == "integers" else blocks, columns, getattr(pieces, part))
    return {part: assembly.tensor() for part, assembly in found.items()}, (lost / size) ** 0.5 if size else 0.0


def _contents(job: Job) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """The slices of a matrix; some columns with all of their rows where rows make up for each other."""
    if job.moments is None:
        yield from job.source.slices(job.block)
        return
    source = job.source
    step = max(2, _WHOLE_BYTES // (4 * source.rows) // 2 * 2)
    if source.columns > step and isinstance(source, FloatMatrix) and source.is_transposed:
        yield from source.slices(job.block)
        return
    whole = np.empty((source.rows, source.columns), source.dtype.numpy())
    for rows, columns, content in source.slices(job.block):
        whole[rows, columns] = content
    yield slice(0, source.rows), slice(0, source.columns), whole


def round_slice(job: Job, rows: slice, content: NDArray[Any]) -> QuantizedBlocks:
    """Rounds some rows of a matrix, or some columns with all rows, as the job says."""
    settings: dict[str, Any] = {"bits": job.bits, "block_size": job.block, "name": job.source.name}
    if not job.search or not job.symmetric:
        return quantize_blocks(content, symmetric=job.symmetric, **settings)
    if job.moments is None:
        return search_blocks(content, **settings)
    if rows != slice(0, job.source.rows):
        raise ValueError("moments are of all rows")
    return compensated_blocks(content, job.moments, **settings)


class _Assembly:
    """One part in the form in which it is written; four-bit numbers two to a byte where rows have an even length."""

    def __init__(self, job: Job, part: Part) -> None:
        self._dtype, self._shape, self._flip = job.dtype(part), job.shape(part), job.flip
        self._is_packed = self._dtype.bitwidth == 4 and self._shape[1] % 2 == 0
        rows, columns = self._shape
        if self._is_packed:
            self._held: NDArray[Any] = np.empty((rows, columns // 2), np.uint8)
        else:
            self._held = np.empty(self._shape, self._dtype.numpy())

    def put(self, rows: slice, columns: slice, piece: NDArray[Any]) -> None:
        """Stores a piece of (K, N)."""
        if self._flip:
            rows, columns, piece = columns, rows, piece.T
        if self._is_packed:
            columns = slice(columns.start // 2, columns.stop // 2)
            piece = (piece[:, 0::2] & 15).view(np.uint8) | (piece[:, 1::2] << 4).view(np.uint8)
        self._held[rows, columns] = piece

    def tensor(self) -> ir.TensorProtocol:
        """The whole part."""
        if self._is_packed:
            return ir.PackedTensor(self._held, self._dtype, shape=ir.Shape(self._shape))
        return ir.Tensor(self._held, dtype=self._dtype)


def _widened(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """A part of a quantized matrix with a byte for each number, read into memory."""
    array: NDArray[Any] = tensor.numpy()
    if array.dtype in (ml_dtypes.int4, ml_dtypes.uint4):
        array = array.astype(np.int8 if array.dtype == ml_dtypes.int4 else np.uint8)
    elif isinstance(tensor, ir.ExternalTensor):
        array = array.copy()
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return array
