# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""compressed-tensors checkpoints with integer weights: packed into words (N, K), or a byte for each number.

``pack-quantized``: ``weight_packed`` int32 (N, K * bits / 32) holds integers plus half of their range, ``weight_scale``
(N, groups), ``weight_shape`` (2,), perhaps ``weight_zero_point`` int32 (N * bits / 32, groups) and ``weight_g_idx``.
``int-quantized`` and ``naive-quantized``: ``weight`` int8 (N, K) and the same without packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.build.checkpoint.integers import IntegerMatrix, IntegerParts, groups_of, numpy_of, unpacked
from genai_iface.build.checkpoint.weight_files import Tensors
from genai_iface.errors import InvalidInputError, UnsupportedModelError

__all__ = ["SUFFIXES", "read_compressed"]

SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")

_FORMATS = frozenset({"pack-quantized", "int-quantized", "naive-quantized"})
# Of activations and caches; the network computes with floats there.
_LEFT = ("input_scale", "input_zero_point", "output_scale", "output_zero_point", "k_scale", "v_scale")
_BITS = (4, 8)
_REMEDY = "Build from the original weights, with --quantize int4 or int8."


def read_compressed(
    tensors: Tensors, settings: Mapping[str, Any], name: str
) -> tuple[list[IntegerMatrix], set[str], list[str]]:
    """The quantized weights of a compressed-tensors checkpoint.

    Args:
        tensors: Of the checkpoint.
        settings: Its quantization settings.
        name: The checkpoint's, for messages.

    Returns:
        The weights, the names of the tensors that they are made of or that are left out, and notes.

    Raises:
        InvalidInputError: Tensors contradict each other.
        UnsupportedModelError: The form is another than integers.
    """
    schemes = list(_schemes(settings))
    _check(settings, schemes, name)
    bits = {weights.get("num_bits") for weights in (scheme.get("weights") or {} for scheme in schemes)}
    matrices, used = [], set[str]()
    for tensor in tensors.names:
        stem, _, suffix = tensor.rpartition(".")
        if suffix == "weight_packed":
            matrices.append(_packed(tensors, stem, bits))
        elif suffix == "weight" and tensors.dtype(tensor) == "I8" and f"{stem}.weight_scale" in tensors:
            matrices.append(_plain(tensors, stem))
            used.add(tensor)
        else:
            continue
        used |= {f"{stem}.{part}" for part in (*SUFFIXES, *_LEFT) if f"{stem}.{part}" in tensors}
    used |= {tensor for tensor in tensors.names if tensor.rpartition(".")[2] in _LEFT}
    return matrices, used, _notes(settings, schemes)


def _schemes(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    groups = settings.get("config_groups")
    for scheme in (groups if isinstance(groups, Mapping) else {}).values():
        if isinstance(scheme, Mapping):
            yield scheme


def _check(settings: Mapping[str, Any], schemes: list[Mapping[str, Any]], name: str) -> None:
    """Refuses what is no plain table of integers."""
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise UnsupportedModelError(
            f"The checkpoint {name!r} is sparse ({str(sparsity['format'])[:40]}), a form of compressed-tensors that is "
            "not read",
            remedy=_REMEDY,
        )
    if settings.get("transform_config"):
        raise UnsupportedModelError(
            f"The checkpoint {name!r} has a transform_config: its weights are rotated, and activations would have to "
            "be rotated while it runs",
            remedy=_REMEDY,
        )
    forms = {str(scheme.get("format") or settings.get("format") or "none") for scheme in schemes}
    kinds = {str((scheme.get("weights") or {}).get("type", "int")) for scheme in schemes if scheme.get("weights")}
    if not forms or forms - _FORMATS or kinds - {"int"}:
        raise UnsupportedModelError(
            f"The compressed-tensors checkpoint {name!r} has weights of the form {', '.join(sorted(forms)) or 'none'} "
            f"(numbers: {', '.join(sorted(kinds)) or 'none'}); integers in {', '.join(sorted(_FORMATS))} are read",
            remedy=_REMEDY,
        )


def _notes(settings: Mapping[str, Any], schemes: list[Mapping[str, Any]]) -> list[str]:
    rounded = [
        what
        for what, is_rounded in (
            ("activations", any(scheme.get("input_activations") for scheme in schemes)),
            ("outputs", any(scheme.get("output_activations") for scheme in schemes)),
            ("keys and values", bool(settings.get("kv_cache_scheme"))),
        )
        if is_rounded
    ]
    if not rounded:
        return []
    return [f"the checkpoint was made to round {' and '.join(rounded)} too; this model keeps them as floats"]


def _packed(tensors: Tensors, stem: str, numbers: set[Any]) -> IntegerMatrix:
    shape = numpy_of(tensors.read(f"{stem}.weight_shape")) if f"{stem}.weight_shape" in tensors else np.zeros(0)
    words = tensors.shape(f"{stem}.weight_packed")
    if (
        shape.shape != (2,)
        or len(words) != 2
        or words[0] != shape[0]
        or tensors.dtype(f"{stem}.weight_packed") != "I32"
    ):
        raise UnsupportedModelError(
            f"{stem}.weight_packed has the shape {words} for a weight of {shape.tolist()}, expected two axes",
            remedy=_REMEDY,
        )
    columns, rows = int(shape[0]), int(shape[1])
    possible = [bits for bits in _BITS if bits in numbers and -(-rows * bits // 32) == words[1]]
    if not possible:
        raise UnsupportedModelError(
            f"{stem}: {words[1]} words for {rows} numbers of {sorted(numbers, key=str)} bits; 4 and 8 are read",
            remedy=_REMEDY,
        )
    return _matrix(tensors, stem, rows, columns, possible[0], is_packed=True)


def _plain(tensors: Tensors, stem: str) -> IntegerMatrix:
    shape = tensors.shape(f"{stem}.weight")
    if len(shape) != 2:
        raise UnsupportedModelError(f"{stem}.weight has the shape {shape}, expected two axes", remedy=_REMEDY)
    return _matrix(tensors, stem, shape[1], shape[0], 8, is_packed=False)


def _matrix(tensors: Tensors, stem: str, rows: int, columns: int, bits: int, *, is_packed: bool) -> IntegerMatrix:
    if f"{stem}.weight_scale" not in tensors:
        raise InvalidInputError(f"{stem} has no weight_scale", remedy="Copy the checkpoint again.")
    scales = tensors.shape(f"{stem}.weight_scale")
    groups = scales[1] if len(scales) == 2 else 1
    zero_point = f"{stem}.weight_zero_point"
    is_known = scales in ((), (1,), (columns,), (1, 1), (columns, groups))
    if not is_known or groups < 1 or rows % groups:
        raise UnsupportedModelError(
            f"{stem}.weight_scale has the shape {scales} for a weight of {(columns, rows)}, expected a scale for each "
            "group of its rows",
            remedy=_REMEDY,
        )
    given = f"{stem}.weight_g_idx" in tensors
    g_idx = numpy_of(tensors.read(f"{stem}.weight_g_idx")) if given else None
    if g_idx is not None and (g_idx == -1).any():
        g_idx = None  # laid out, and never filled
    group, order = groups_of(g_idx, rows, groups, stem)
    read = partial(_read, tensors, stem, bits, (columns, rows), groups, order, is_packed)
    scale_dtype = tensors.float_type(f"{stem}.weight_scale")
    has_zero_points = zero_point in tensors
    return IntegerMatrix(f"{stem}.weight", rows, columns, bits, True, has_zero_points, group, order, scale_dtype, read)


def _read(
    tensors: Tensors,
    stem: str,
    bits: int,
    shape: tuple[int, int],
    groups: int,
    order: NDArray[np.int64] | None,
    is_packed: bool,
) -> IntegerParts:
    columns, rows = shape
    half = 2 ** (bits - 1)
    if is_packed:
        numbers = unpacked(numpy_of(tensors.read(f"{stem}.weight_packed")), bits, 1, rows)
        integers = (numbers.astype(np.int16) - half).astype(np.int8)
    else:
        integers = numpy_of(tensors.read(f"{stem}.weight"))
    integers = integers.T if order is None else integers.T[order]
    scales = _each(numpy_of(tensors.read(f"{stem}.weight_scale")), columns, groups)
    if f"{stem}.weight_zero_point" not in tensors:
        return IntegerParts(integers, scales, None)
    points = numpy_of(tensors.read(f"{stem}.weight_zero_point"))
    if points.dtype == np.int32:
        points = (unpacked(points, bits, 0, columns).astype(np.int16) - half).astype(np.int8)
    return IntegerParts(integers, scales, _each(points, columns, groups))


def _each(values: NDArray[Any], columns: int, groups: int) -> NDArray[Any]:
    """One value for each group and column, (groups, N)."""
    if values.size == 1:
        return np.full((groups, columns), values.reshape(()))
    return np.ascontiguousarray(values.reshape(columns, groups).T)
