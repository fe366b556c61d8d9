# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""MatMulNBits -> DequantizeLinear in blocks, with the same integers, and MatMul."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Lazy, constant_tensor
from genai_iface.transform._weights import sizes
from genai_iface.transform.contrib.mappings.packed import (
    PackedTensor,
    packed_tensor,
    signed,
    storage,
    unpack,
    unsigned,
)
from genai_iface.transform.contrib.site import Site

__all__ = ["Blocked", "blocked_matrix", "matmul_nbits", "table_key"]

_BITS = (2, 4, 8)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A matrix (K, N) as DequantizeLinear takes it, blocks along axis 0.

    Attributes:
        integers: int4, uint4, int8 or uint8 (K, N).
        scales: (blocks, N), one for each block of a column.
        zero_points: (blocks, N), None where they are zero.
        offsets: Float (blocks, N): zero points that are not integers, None in every other case.
        block: Rows that share a scale.
    """

    integers: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    offsets: ir.Value | None
    block: int


def matmul_nbits(site: Site) -> None:
    """(A, B, scales, zero_points, g_idx, bias) with bits 2, 4 or 8.

    accuracy_level only permits a kernel to round A; the standard operators do not round it.
    """
    x, matrix = site.required(0), blocked_matrix(site)
    order = _order(site, matrix.block)
    if order is not None:
        x = site.add("Gather", x, site.edit.weight("order", ir.Tensor(order)), axis=-1)
    result = site.add("MatMul", x, _dequantized(site, matrix))
    bias = site.input(5)
    if bias is not None:
        result = site.add("Add", result, bias)
    site.give(result)


def table_key(site: Site) -> tuple[str, ...] | None:
    """Names the constants of a MatMulNBits that a lookup may share with it."""
    roots = [packed_tensor(site.input(index)) for index in (1, 2, 3)]
    if roots[0] is None or roots[1] is None:
        return None
    return tuple("" if root is None else str(root.root.name) for root in roots)


def blocked_matrix(site: Site) -> Blocked:
    """The weights of a MatMulNBits, made once for all that read them.

    Raises:
        UnsupportedModelError: They are computed, or packed in the layout of one device.
    """
    bits, block = site.integer("bits", 4), site.integer("block_size")
    rows, columns = site.integer("K"), site.integer("N")
    if bits not in _BITS:
        raise site.refuse(f"has weights of {bits} bits, expected 2, 4 or 8")
    if site.integer("weight_prepacked"):
        raise site.refuse("has weights in the layout of one device (weight_prepacked), which says no order of integers")
    packed, scales = packed_tensor(site.input(1)), packed_tensor(site.input(2))
    if packed is None or scales is None:
        raise site.refuse("computes its weights in each step, expected constants")
    blocks = -(-rows // block)
    wanted = columns * blocks * block * bits // 8
    if int(np.prod(packed.shape)) != wanted:
        raise site.refuse(
            f"has {int(np.prod(packed.shape))} bytes of weights, expected {wanted} for {rows} x {columns}"
        )
    key = (
        "blocked",
        str(packed.root.name),
        str(scales.root.name),
        _name_of(site, 3),
        _name_of(site, 4),
        rows,
        columns,
        bits,
        block,
    )
    if key not in site.scope.made:
        site.scope.made[key] = _made(site, packed, scales, bits, block)
    made: Blocked = site.scope.made[key]
    return made


def _made(site: Site, packed: PackedTensor, scales: PackedTensor, bits: int, block: int) -> Blocked:
    rows, columns = site.integer("K"), site.integer("N")
    blocks = -(-rows // block)
    zeros, offsets, is_signed = _zero_points(site, bits, blocks)
    convert = (signed if is_signed else unsigned)(bits)
    # Offsets are subtracted from whole blocks.
    kept = rows if offsets is None else blocks * block
    order = _order(site, block)

    def integers() -> NDArray[Any]:
        codes = unpack(packed.numpy().reshape(columns, -1), bits)[:, :kept]
        if order is not None:
            codes = codes[:, order]
        return np.ascontiguousarray(convert(codes).T)

    def scale() -> NDArray[Any]:
        return np.ascontiguousarray(scales.numpy().reshape(columns, blocks).T)

    stem = str(packed.root.name)
    return Blocked(
        site.edit.weight(stem, Lazy(integers, storage(bits, is_signed=is_signed), (kept, columns))),
        site.edit.weight(f"{stem}.scales", Lazy(scale, scales.tensor.dtype, (blocks, columns))),
        zeros,
        offsets,
        block,
    )


def _zero_points(site: Site, bits: int, blocks: int) -> tuple[ir.Value | None, ir.Value | None, bool]:
    """Integer zero points, other offsets, and whether the integers are signed ones around zero."""
    if site.input(3) is None:
        return None, None, True
    columns, given = site.integer("N"), packed_tensor(site.input(3))
    if given is None:
        raise site.refuse("computes its zero points in each step, expected constants")
    stem = str(given.root.name)
    if given.tensor.dtype not in _FLOATS:
        make = _Points(given, columns, blocks, bits)
        return site.edit.weight(stem, Lazy(make, storage(bits, is_signed=False), (blocks, columns))), None, False
    numbers = given.numpy().reshape(columns, blocks).T
    whole = numbers.astype(np.float32)
    if np.array_equal(whole, np.rint(whole)) and whole.min() >= 0 and whole.max() < 2**bits:
        tensor = ir.Tensor(np.ascontiguousarray(unsigned(bits)(whole.astype(np.uint8))))
        return site.edit.weight(stem, tensor), None, False
    tensor = ir.Tensor(np.ascontiguousarray(numbers), dtype=given.tensor.dtype)
    return None, site.edit.weight(stem, tensor), False


class _Points:
    """Reads packed zero points."""

    def __init__(self, given: PackedTensor, columns: int, blocks: int, bits: int) -> None:
        self._given, self._columns, self._blocks, self._bits = given, columns, blocks, bits

    def __call__(self) -> NDArray[Any]:
        codes = unpack(self._given.numpy().reshape(self._columns, -1), self._bits)[:, : self._blocks]
        convert: Callable[[NDArray[np.uint8]], NDArray[Any]] = unsigned(self._bits)
        return np.ascontiguousarray(convert(codes).T)


def _dequantized(site: Site, matrix: Blocked) -> ir.Value:
    if matrix.offsets is None:
        parts = [matrix.integers, matrix.scales, matrix.zero_points]
        return site.add("DequantizeLinear", *parts, axis=0, block_size=matrix.block)
    rows, columns, blocks = site.integer("K"), site.integer("N"), sizes_of(matrix.scales)[0]
    codes = site.add("Cast", matrix.integers, to=int(site.float_type(matrix.scales)))
    parts = [
        site.add("Reshape", value, site.ints(blocks, size, columns))
        for value, size in ((codes, matrix.block), (matrix.offsets, 1), (matrix.scales, 1))
    ]
    result = site.add("Mul", site.add("Sub", parts[0], parts[1]), parts[2])
    result = site.add("Reshape", result, site.ints(blocks * matrix.block, columns))
    if rows != blocks * matrix.block:
        result = site.add("Slice", result, site.ints(0), site.ints(rows), site.ints(0))
    return result


def sizes_of(value: ir.Value) -> tuple[int, ...]:
    """The shape of a weight."""
    tensor = constant_tensor(value)
    return () if tensor is None else sizes(tensor)


def _order(site: Site, block: int) -> NDArray[np.int64] | None:
    """Rows sorted by their group where g_idx mixes them, None where groups are blocks already."""
    if site.input(4) is None:
        return None
    groups = site.constant(4).numpy().astype(np.int64).ravel()
    rows = site.integer("K")
    plain = np.arange(rows) // block
    if np.array_equal(groups[:rows], plain):
        return None
    order = np.argsort(groups[:rows], kind="stable")
    if not np.array_equal(groups[:rows][order], plain):
        raise site.refuse(f"has groups (g_idx) that are not of {block} rows each, expected as many rows in every group")
    return order


def _name_of(site: Site, index: int) -> str:
    found = packed_tensor(site.input(index))
    return "" if found is None else str(found.root.name)
