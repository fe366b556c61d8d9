# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""MatMulBnb4 (NF4 and FP4 of bitsandbytes) -> a lookup of the sixteen values, the blocks' factors, and MatMul."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import Lazy
from genai_iface.transform.contrib.mappings.packed import packed_tensor
from genai_iface.transform.contrib.site import Site

__all__ = ["matmul_bnb4"]

# Quantiles of the normal distribution that the NF4 type is defined by (Dettmers et al., 2023, appendix E).
_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_FP4_MAGNITUDES = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)


def matmul_bnb4(site: Site) -> None:
    """(A, B, absmax): B is (N, K), flat, in blocks; a byte holds two codes, the first in its high half."""
    codes, block = packed_tensor(site.input(1)), site.integer("block_size")
    rows, columns = site.integer("N"), site.integer("K")
    if codes is None:
        raise site.refuse("computes its weights in each step, expected a constant")
    if (rows * columns) % block:
        raise site.refuse(f"has {rows} x {columns} weights, which blocks of {block} do not divide")

    def numbers() -> NDArray[Any]:
        packed = codes.numpy().ravel()
        both = np.stack([packed >> 4, packed & 15], axis=1).ravel()[: rows * columns]
        return both.reshape(-1, block).astype(ml_dtypes.uint4)

    absmax = site.required(2)
    dtype = site.float_type(absmax)
    table = np.array(_NF4 if site.integer("quant_type") == 1 else [*_FP4_MAGNITUDES, *(-x for x in _FP4_MAGNITUDES)])
    values = site.edit.weight("values", ir.Tensor(table.astype(np.float32)))
    packed = site.edit.weight(str(codes.root.name), Lazy(numbers, ir.DataType.UINT4, (rows * columns // block, block)))
    index = site.add("Cast", packed, to=int(ir.DataType.INT32))
    looked = site.add("Gather", values, index, axis=0)
    if dtype != ir.DataType.FLOAT:
        looked = site.add("Cast", looked, to=int(dtype))
    factors = site.add("Reshape", absmax, site.ints(-1, 1))
    weight = site.add("Reshape", site.add("Mul", looked, factors), site.ints(rows, columns))
    if site.integer("transB", 1):
        weight = site.add("Transpose", weight, perm=[1, 0])
    site.give(site.add("MatMul", site.required(0), weight))
