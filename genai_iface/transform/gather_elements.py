# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GatherElements for ``onnx.reference``, whose own takes at most 64 rows; GPT-J looks its positions up with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["GatherElements"]


class GatherElements(OpRun):
    """The operator; negative indices count from the end."""

    def _run(self, data: NDArray[Any], indices: NDArray[Any], *, axis: int = 0) -> tuple[NDArray[Any]]:
        return (np.take_along_axis(data, np.where(indices < 0, indices + data.shape[axis], indices), axis),)
