# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""TensorScatter-24, writing into the cache that it is given.

The operator is functional: it returns ``present_cache``. It exists so that a runtime may write in
place when nobody needs ``past_cache`` any more, and that is what this kernel does. The model decides
whether that is so; see ``evaluator.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["TensorScatter", "scatter_in_place"]


def scatter_in_place(
    cache: NDArray[Any], update: NDArray[Any], write_indices: NDArray[np.int64] | None, *, axis: int, mode: str
) -> None:
    """Writes ``update`` into ``cache`` along ``axis``, each row from its own index on.

    Args:
        cache: (B, ..., C, ...), changed.
        update: (B, ..., S, ...), S <= C.
        write_indices: int64 (B,); None means 0.
        axis: The sequence axis, not 0.
        mode: "linear" requires write_indices + S <= C; "circular" wraps around.

    Raises:
        ValueError: Shapes do not fit, or a linear write leaves the cache.
    """
    axis %= cache.ndim
    capacity, num_new = cache.shape[axis], update.shape[axis]
    if axis == 0 or num_new > capacity or cache.shape != (*update.shape[:axis], capacity, *update.shape[axis + 1 :]):
        raise ValueError(f"update of shape {update.shape} does not fit a cache of shape {cache.shape} on axis {axis}")

    # Views in which the sequence is axis 1 of the whole and axis 0 of a row.
    cache, update = cache.swapaxes(axis, 1), update.swapaxes(axis, 1)
    for row in range(cache.shape[0]):
        start = 0 if write_indices is None else int(write_indices[row])
        if mode == "circular":
            start %= capacity
        elif start < 0 or start + num_new > capacity:
            raise ValueError(f"row {row}: writing {num_new} tokens at {start} leaves a cache of {capacity} positions")
        num_before_wrap = min(num_new, capacity - start)
        cache[row, start : start + num_before_wrap] = update[row, :num_before_wrap]
        cache[row, : num_new - num_before_wrap] = update[row, num_before_wrap:]


class TensorScatter(OpRun):
    """The operator for ``onnx.reference``; past_cache and present_cache are one array."""

    def _run(
        self,
        past_cache: NDArray[Any],
        update: NDArray[Any],
        write_indices: NDArray[np.int64] | None = None,
        mode: str = "linear",
        axis: int = -2,
    ) -> tuple[NDArray[Any]]:
        scatter_in_place(past_cache, update, write_indices, axis=axis, mode=mode)
        return (past_cache,)
