# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RMSNormalization-23 and LayerNormalization-17 on NumPy, in the precision that ``stash_type`` names.

Both operators have two stages. The first squares, averages and divides in the type of ``stash_type``,
float32 unless the graph says otherwise; the second multiplies with the scale in the type of the input.
``onnx.reference`` computes RMSNormalization's first stage in the type of the input, whatever ``stash_type``
says, so that float16 overflows once a value passes 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun

__all__ = ["LayerNormalization", "RMSNormalization"]

_Array = NDArray[Any]
_FLOAT32 = 1


class RMSNormalization(OpRun):
    """The operator for ``onnx.reference``: x / sqrt(mean(x^2) + epsilon) * scale."""

    def _run(
        self,
        x: _Array,
        scale: _Array,
        *,
        axis: int | None = -1,
        epsilon: float | None = 1e-5,
        stash_type: int | None = _FLOAT32,
    ) -> tuple[_Array]:
        wide = _stashed(x, stash_type)
        inverse = _inverse_root(np.square(wide), _axes(x, axis), epsilon)
        return (_rounded(wide * inverse, x) * scale,)


class LayerNormalization(OpRun):
    """The operator for ``onnx.reference``: (x - mean) / sqrt(variance + epsilon) * scale + bias."""

    def _run(
        self,
        x: _Array,
        scale: _Array,
        bias: _Array | None = None,
        *,
        axis: int | None = -1,
        epsilon: float | None = 1e-5,
        stash_type: int | None = _FLOAT32,
    ) -> tuple[_Array, ...]:
        wide, axes = _stashed(x, stash_type), _axes(x, axis)
        mean = wide.mean(axis=axes, keepdims=True)
        centered = wide - mean
        inverse = _inverse_root(np.square(centered), axes, epsilon)
        result = _rounded(centered * inverse, x) * scale
        if bias is not None:
            result = result + bias
        return (result, mean, inverse)[: max(1, len(self.output))]


def _stashed(x: _Array, stash_type: int | None) -> _Array:
    """The input in the type of the first stage."""
    return x.astype(tensor_dtype_to_np_dtype(_FLOAT32 if stash_type is None else stash_type), copy=False)


def _axes(x: _Array, axis: int | None) -> tuple[int, ...]:
    """All axes from the named one on."""
    return tuple(range((-1 if axis is None else axis) % x.ndim, x.ndim))


def _inverse_root(squares: _Array, axes: tuple[int, ...], epsilon: float | None) -> _Array:
    """1 / sqrt(mean + epsilon), over the normalized axes."""
    mean = squares.mean(axis=axes, keepdims=True)
    inverse: _Array = 1 / np.sqrt(mean + squares.dtype.type(1e-5 if epsilon is None else epsilon))
    return inverse


def _rounded(normalized: _Array, x: _Array) -> _Array:
    """The border between the stages: back to the type of the input."""
    return normalized.astype(x.dtype, copy=False)
