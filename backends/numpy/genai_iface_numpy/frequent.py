# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RotaryEmbedding-23 and Reshape on NumPy for a step of one token, which has many of both and little in each.

``onnx.reference`` splits, rotates and joins with six arrays in between, and computes a shape of four numbers with
arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["Reshape", "RotaryEmbedding"]

_Array = NDArray[Any]


class RotaryEmbedding(OpRun):
    """The operator for ``onnx.reference``; half precision comes widened to float32."""

    def _run(
        self,
        x: _Array,
        cos_cache: _Array,
        sin_cache: _Array,
        position_ids: NDArray[np.int64] | None = None,
        *,
        interleaved: int | None = 0,
        num_heads: int | None = 0,
        rotary_embedding_dim: int | None = 0,
    ) -> tuple[_Array]:
        result = x.copy()
        # (B, H, S, D), whatever the rank: a view of what is written.
        heads = result if x.ndim == 4 else _as_heads(result, num_heads or 0)
        size = rotary_embedding_dim or heads.shape[-1]
        if position_ids is not None:
            cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
        if not cos_cache.shape[-1] == sin_cache.shape[-1] == size // 2:
            raise ValueError(
                f"{cos_cache.shape[-1]} cosines and {sin_cache.shape[-1]} sines do not rotate {size} values"
            )
        cos, sin = cos_cache[:, None], sin_cache[:, None]
        rotated = heads[..., :size]
        real, imaginary = (
            (rotated[..., 0::2], rotated[..., 1::2])
            if interleaved
            else (rotated[..., : size // 2], rotated[..., size // 2 :])
        )
        turned = cos * real - sin * imaginary
        imaginary[...] = sin * real + cos * imaginary
        real[...] = turned
        return (result,)


def _as_heads(x: _Array, num_heads: int) -> _Array:
    batch_size, length, width = x.shape
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"{width} values of a token are not those of {num_heads} heads")
    return x.reshape(batch_size, length, num_heads, width // num_heads).swapaxes(1, 2)


class Reshape(OpRun):
    """The operator for ``onnx.reference``: 0 keeps a dimension unless ``allowzero``, -1 is what is left."""

    def _run(self, data: NDArray[Any], shape: NDArray[np.int64], *, allowzero: int | None = 0) -> tuple[NDArray[Any]]:
        sizes = shape.tolist()
        if not allowzero and 0 in sizes:
            sizes = [size or data.shape[axis] for axis, size in enumerate(sizes)]
        return (data.reshape(sizes),)
