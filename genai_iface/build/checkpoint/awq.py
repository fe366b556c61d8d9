# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""AWQ checkpoints in the form "gemm": four-bit integers packed along N, eight to a word in an interleaved order.

``qweight`` int32 (K, N / 8), ``qzeros`` int32 (groups, N / 8), ``scales`` (groups, N).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.build.checkpoint.integers import IntegerMatrix, IntegerParts, numpy_of, unpacked
from genai_iface.build.checkpoint.weight_files import Tensors
from genai_iface.errors import InvalidInputError, UnsupportedModelError

__all__ = ["SUFFIXES", "read_awq"]

SUFFIXES = ("qweight", "qzeros", "scales")

# Where column i of eight stands in a word; the columns are packed in the order 0, 2, 4, 6, 1, 3, 5, 7.
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def read_awq(tensors: Tensors, settings: Mapping[str, Any], name: str) -> tuple[list[IntegerMatrix], set[str]]:
    """The quantized weights of an AWQ checkpoint; arguments and result as those of GPTQ.

    Raises:
        InvalidInputError: Tensors contradict each other.
        UnsupportedModelError: The format is another, or the number of bits.
    """
    form = str(settings.get("version") or settings.get("format") or "gemm").lower()
    bits = settings.get("bits", settings.get("w_bit", 4))
    if form != "gemm" or bits != 4:
        raise UnsupportedModelError(
            f"The AWQ checkpoint {name!r} is in the form {form[:40]!r} with {bits} bits; gemm with 4 bits is read",
            remedy="Quantize the original weights to the form gemm, or build from them with --quantize int4.",
        )
    if settings.get("zero_point") is False:
        raise UnsupportedModelError(
            f"The AWQ checkpoint {name!r} has zero_point=false, a form that is not read",
            remedy="Build from the original weights, with --quantize int4.",
        )
    matrices, used = [], set[str]()
    for tensor in tensors.names:
        if tensor.endswith(".qweight"):
            stem = tensor.removesuffix(".qweight")
            matrices.append(_matrix(tensors, stem))
            used |= {f"{stem}.{suffix}" for suffix in SUFFIXES}
    return matrices, used


def _matrix(tensors: Tensors, stem: str) -> IntegerMatrix:
    absent = [suffix for suffix in ("qzeros", "scales") if f"{stem}.{suffix}" not in tensors]
    if absent:
        raise InvalidInputError(f"{stem}.qweight has no {' and no '.join(absent)}", remedy="Copy the checkpoint again.")
    rows, words = tensors.shape(f"{stem}.qweight")
    groups = tensors.shape(f"{stem}.scales")[0]
    expected = (groups, words * 8), (groups, words)
    found = tensors.shape(f"{stem}.scales"), tensors.shape(f"{stem}.qzeros")
    is_whole = groups > 0 and rows % groups == 0
    if found != expected or not is_whole or tensors.dtype(f"{stem}.qweight") != "I32":
        raise InvalidInputError(
            f"{stem}: scales and qzeros have the shapes {found}, expected {expected} for {rows} rows in equal groups",
            remedy="Copy the checkpoint again, with its quantization settings.",
        )
    read = partial(_read, tensors, stem, words * 8)
    scale_dtype = tensors.float_type(f"{stem}.scales")
    return IntegerMatrix(f"{stem}.weight", rows, words * 8, 4, False, True, rows // groups, None, scale_dtype, read)


def _read(tensors: Tensors, stem: str, columns: int) -> IntegerParts:
    integers, zero_points = (
        _in_order(unpacked(numpy_of(tensors.read(f"{stem}.{part}")), 4, 1, columns)) for part in ("qweight", "qzeros")
    )
    return IntegerParts(integers, numpy_of(tensors.read(f"{stem}.scales")), zero_points)


def _in_order(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(numbers.reshape(len(numbers), -1, 8)[:, :, _PLACES]).reshape(len(numbers), -1)
