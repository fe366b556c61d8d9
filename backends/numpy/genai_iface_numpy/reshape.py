# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reshape on NumPy: one of the most frequent nodes of a graph, and its shape has four numbers, not an array's worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["Reshape"]


class Reshape(OpRun):
    """The operator for ``onnx.reference``: 0 keeps a dimension unless ``allowzero``, -1 is what is left."""

    def _run(self, data: NDArray[Any], shape: NDArray[np.int64], *, allowzero: int | None = 0) -> tuple[NDArray[Any]]:
        sizes = shape.tolist()
        if not allowzero and 0 in sizes:
            sizes = [size or data.shape[axis] for axis, size in enumerate(sizes)]
        return (data.reshape(sizes),)
