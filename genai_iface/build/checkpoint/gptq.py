# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GPTQ checkpoints: integers packed along K, eight (or four, or sixteen) to a word; scales and zero points per group.

``qweight`` int32 (K * bits / 32, N), ``qzeros`` int32 (groups, N * bits / 32), ``scales`` (groups, N) and ``g_idx``
int32 (K,), the group of each row. Version 1 of the format stores zero points less one, version 2 as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.build.checkpoint.integers import IntegerMatrix, IntegerParts, groups_of, numpy_of, unpacked
from genai_iface.build.checkpoint.weight_files import Tensors
from genai_iface.errors import InvalidInputError, UnsupportedModelError

__all__ = ["SUFFIXES", "read_gptq"]

SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")

_BITS = (2, 4, 8)
_FORMATS = {"gptq": 1, "gptq_v2": 0}


def read_gptq(tensors: Tensors, settings: Mapping[str, Any], name: str) -> tuple[list[IntegerMatrix], set[str]]:
    """The quantized weights of a GPTQ checkpoint.

    Args:
        tensors: Of the checkpoint.
        settings: Its quantization settings.
        name: The checkpoint's, for messages.

    Returns:
        The weights, and the names of the tensors that they are made of.

    Raises:
        InvalidInputError: Tensors contradict each other.
        UnsupportedModelError: The format is another, or the number of bits.
    """
    form = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    if form not in _FORMATS:
        raise UnsupportedModelError(
            f"The GPTQ checkpoint {name!r} is in the format {form[:40]!r}; gptq and gptq_v2 are read",
            remedy="Save it in the format gptq, which GPTQModel converts to, or build from the original weights.",
        )
    matrices, used = [], set[str]()
    for tensor in tensors.names:
        if tensor.endswith(".qweight"):
            stem = tensor.removesuffix(".qweight")
            matrices.append(_matrix(tensors, stem, settings, added=_FORMATS[form]))
            used |= {f"{stem}.{suffix}" for suffix in SUFFIXES if f"{stem}.{suffix}" in tensors}
    return matrices, used


def _matrix(tensors: Tensors, stem: str, settings: Mapping[str, Any], *, added: int) -> IntegerMatrix:
    absent = [suffix for suffix in ("qzeros", "scales") if f"{stem}.{suffix}" not in tensors]
    if absent:
        raise InvalidInputError(f"{stem}.qweight has no {' and no '.join(absent)}", remedy="Copy the checkpoint again.")
    words, columns = tensors.shape(f"{stem}.qweight")
    groups = tensors.shape(f"{stem}.scales")[0]
    g_idx = numpy_of(tensors.read(f"{stem}.g_idx")) if f"{stem}.g_idx" in tensors else None
    bits, rows = _bits(words, g_idx, settings, stem)
    group, order = groups_of(g_idx, rows, groups, stem, settings.get("group_size"))
    expected = (groups, columns), (groups, -(-columns * bits // 32))
    found = tensors.shape(f"{stem}.scales"), tensors.shape(f"{stem}.qzeros")
    if found != expected or any(tensors.dtype(f"{stem}.{part}") != "I32" for part in ("qweight", "qzeros")):
        raise InvalidInputError(
            f"{stem}: scales and qzeros have the shapes {found}, expected {expected} for {bits} bits and words of 32",
            remedy="Copy the checkpoint again, with its quantization settings.",
        )
    read = partial(_read, tensors, stem, bits, rows, columns, order, added)
    return IntegerMatrix(
        f"{stem}.weight", rows, columns, bits, False, True, group, order, tensors.float_type(f"{stem}.scales"), read
    )


def _bits(words: int, g_idx: NDArray[Any] | None, settings: Mapping[str, Any], stem: str) -> tuple[int, int]:
    """Bits and K: from the length of g_idx, for single matrices may have other settings; else from the settings."""
    bits = settings.get("bits")
    if g_idx is not None and len(g_idx):
        bits = 32 * words // len(g_idx)
    if bits not in _BITS:
        raise UnsupportedModelError(
            f"{stem} is quantized to {bits} bits; {', '.join(map(str, _BITS))} are read",
            remedy="Build from the original weights, with --quantize int4.",
        )
    return int(bits), len(g_idx) if g_idx is not None and len(g_idx) else words * 32 // int(bits)


def _read(
    tensors: Tensors, stem: str, bits: int, rows: int, columns: int, order: NDArray[np.int64] | None, added: int
) -> IntegerParts:
    integers = unpacked(numpy_of(tensors.read(f"{stem}.qweight")), bits, 0, rows)
    zero_points = unpacked(numpy_of(tensors.read(f"{stem}.qzeros")), bits, 1, columns)
    # Zero less one is stored as the largest number; readers of today add modulo the range.
    zero_points = (zero_points + np.uint8(added)) & np.uint8(2**bits - 1)
    return IntegerParts(
        integers if order is None else integers[order], numpy_of(tensors.read(f"{stem}.scales")), zero_points
    )
