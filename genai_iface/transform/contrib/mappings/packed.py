# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Integers packed into bytes, as contrib operators store them, and their form for DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._edit import constant_tensor
from genai_iface.graph._walk import constant_ints, input_at, is_op
from genai_iface.transform._weights import sizes

__all__ = ["PackedTensor", "packed_tensor", "signed", "storage", "unpack", "unsigned"]


class PackedTensor:
    """A constant, perhaps behind a Reshape, as one node reads it.

    Attributes:
        root: The initializer or Constant; nodes that share a table have the same one.
        tensor: The tensor that the constant holds.
        shape: As it is read.
    """

    def __init__(self, root: ir.Value, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> None:
        self.root, self.tensor, self.shape = root, tensor, shape

    def numpy(self) -> NDArray[Any]:
        """The array, read now."""
        return self.tensor.numpy().reshape(self.shape)


def packed_tensor(value: ir.Value | None) -> PackedTensor | None:
    """The constant behind a value; None if it is computed in each step."""
    tensor = constant_tensor(value)
    if value is None:
        return None
    if tensor is not None:
        return PackedTensor(value, tensor, sizes(tensor))
    node = value.producer()
    if node is None or not is_op(node, "Reshape", "Identity"):
        return None
    inner = packed_tensor(input_at(node, 0))
    if inner is None or is_op(node, "Identity"):
        return inner
    target = constant_ints(input_at(node, 1))
    if target is None:
        return None
    # A zero keeps the axis; -1 takes what is left.
    shape = [inner.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    known = int(np.prod([size for size in shape if size != -1]))
    if shape.count(-1) == 1 and known:
        shape[shape.index(-1)] = int(np.prod(inner.shape)) // known
    return PackedTensor(inner.root, inner.tensor, tuple(shape))


def unpack(packed: NDArray[np.uint8], bits: int, /) -> NDArray[np.uint8]:
    """The numbers in the bytes of the last axis, those in the low bits first.

    Args:
        packed: uint8 (.., n).
        bits: 2, 4 or 8.

    Returns:
        uint8 (.., n * 8 / bits).
    """
    if bits == 8:
        return packed
    mask = 2**bits - 1
    parts = [(packed >> shift) & mask for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


def storage(bits: int, *, is_signed: bool) -> ir.DataType:
    """The element type that holds such integers; two bits lie in four, because opset 24 has no smaller ones."""
    if bits == 8:
        return ir.DataType.INT8 if is_signed else ir.DataType.UINT8
    return ir.DataType.INT4 if is_signed else ir.DataType.UINT4


def signed(bits: int) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Turns codes around 2 ** (bits - 1) into signed integers around zero."""
    dtype = np.int8 if bits == 8 else ml_dtypes.int4
    return lambda codes: (codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8).astype(dtype)


def unsigned(bits: int) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Codes as the element type that holds them."""
    dtype = np.uint8 if bits == 8 else ml_dtypes.uint4
    return lambda codes: codes.astype(dtype)
