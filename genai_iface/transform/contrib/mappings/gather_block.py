# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GatherBlockQuantized -> DequantizeLinear in blocks and Gather; a table shared with MatMulNBits stays one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Lazy
from genai_iface.graph._walk import is_op
from genai_iface.transform.contrib.mappings.matmul_nbits import Blocked, blocked_matrix, table_key
from genai_iface.transform.contrib.mappings.packed import (
    PackedTensor,
    packed_tensor,
    signed,
    storage,
    unpack,
    unsigned,
)
from genai_iface.transform.contrib.site import Site

__all__ = ["gather_block_quantized"]

_WIDE = (ir.DataType.INT4, ir.DataType.UINT4)


def gather_block_quantized(site: Site) -> None:
    """(data, indices, scales, zero_points): integers of 2, 4 or 8 bits, any axes.

    An index outside of the table gives zeros there and is an error here.
    """
    data, scales = packed_tensor(site.input(0)), packed_tensor(site.input(2))
    if data is None or scales is None:
        raise site.refuse("computes its table in each step, expected a constant")
    if data.tensor.dtype not in (*_WIDE, ir.DataType.UINT8):
        raise site.refuse(f"has a table of {data.tensor.dtype.name}, expected integers of 2, 4 or 8 bits")
    axes = len(data.shape)
    picked, blocked = site.integer("gather_axis", 0) % axes, site.integer("quantize_axis", 1) % axes
    indices = site.required(1)
    shared = _shared(site) if (axes, picked, blocked) == (2, 0, 1) else None
    if shared is not None:
        parts = (shared.integers, shared.scales, shared.zero_points)
        table = site.add("DequantizeLinear", *parts, axis=0, block_size=shared.block)
        rows = site.add("Gather", table, indices, axis=1)
        last = site.rank(indices)
        site.give(site.add("Transpose", rows, perm=[*range(1, last + 1), 0]))
        return
    is_packed = data.tensor.dtype == ir.DataType.UINT8
    bits = site.integer("bits", 4) if is_packed else 4
    zero_points = packed_tensor(site.input(3))
    if site.input(3) is not None and zero_points is None:
        raise site.refuse("computes its zero points in each step, expected constants")
    stem = str(data.root.name)
    if is_packed:
        # Without zero points, bytes hold numbers around the middle; int4 and uint4 hold them around zero.
        is_signed = zero_points is None
        convert = (signed if is_signed else unsigned)(bits)
        dtype = storage(bits, is_signed=is_signed)
        wide = (*data.shape[:-1], data.shape[-1] * 8 // bits)
        table = site.edit.weight(stem, Lazy(lambda: convert(unpack(data.numpy(), bits)), dtype, wide))
        points = None
        if zero_points is not None:
            points = site.edit.weight(f"{stem}.zero_points", _points(zero_points, bits, scales.shape))
    else:
        table = site.edit.weight(stem, Lazy(data.numpy, data.tensor.dtype, data.shape))
        points = site.input(3)
    scale = site.edit.weight(f"{stem}.scales", Lazy(scales.numpy, scales.tensor.dtype, scales.shape))
    block = site.integer("block_size", 128)
    wide_table = site.add("DequantizeLinear", table, scale, points, axis=blocked, block_size=block)
    site.give(site.add("Gather", wide_table, indices, axis=picked))


def _shared(site: Site) -> Blocked | None:
    """The same table as a MatMulNBits has it, if one reads it with the same scales and zero points."""
    data, scales = packed_tensor(site.input(0)), packed_tensor(site.input(2))
    if data is None or scales is None:
        return None
    points = packed_tensor(site.input(3))
    key = tuple("" if part is None else str(part.root.name) for part in (data, scales, points))
    for node in site.scope.readers.get(key[0], []):
        other = Site(node, site.scope)
        same = (other.integer("bits", 4), other.integer("block_size")) == (
            site.integer("bits", 4),
            site.integer("block_size", 128),
        )
        size = data.shape[1] * 8 // site.integer("bits", 4)
        fits = same and (other.integer("N"), other.integer("K")) == (data.shape[0], size)
        if is_op(node, "com.microsoft.MatMulNBits") and fits and table_key(other) == key and other.input(4) is None:
            found = blocked_matrix(other)
            return found if found.offsets is None else None
    return None


def _points(given: PackedTensor, bits: int, shape: tuple[int, ...]) -> Lazy:
    def points() -> NDArray[Any]:
        codes = unpack(given.numpy().reshape(*shape[:-1], -1), bits)[..., : shape[-1]]
        return np.ascontiguousarray(unsigned(bits)(codes))

    return Lazy(points, storage(bits, is_signed=False), shape)
