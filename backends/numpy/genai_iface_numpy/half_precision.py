# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Operators that are computed in float32 where their inputs are float16 or bfloat16.

``onnx.reference`` computes in the type of the inputs. For one addition that is what the operator means; for
what has many steps inside it is the error of the sum and not of the operator: a sum of 576 numbers in
bfloat16, a softmax that divides by such a sum, the cube inside Gelu. These operators get their inputs widened
and their result rounded once, which is what runtimes do. The table in docs/backends/numpy.md says how far each was off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["WIDENED_OPERATORS", "narrowed", "widened"]

WIDENED_OPERATORS = frozenset(
    {
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "CumSum",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "GroupNormalization",
        "InstanceNormalization",
        "LogSoftmax",
        "LpNormalization",
        "Mean",
        "MeanVarianceNormalization",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "RotaryEmbedding",
        "Sigmoid",
        "Softmax",
        "Sum",
        "SwiGLU",
        "Swish",
    }
)
"""Operators of the default domain with more than one rounding inside."""

_HALF = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def widened(arguments: Sequence[Any]) -> tuple[list[Any], np.dtype[Any] | None]:
    """The inputs of a node with half precision widened to float32.

    Returns:
        The inputs, and the type to round the results to; None if no input has half precision.
    """
    half = next((each.dtype for each in arguments if isinstance(each, np.ndarray) and each.dtype in _HALF), None)
    if half is None:
        return list(arguments), None
    return [
        each.astype(np.float32) if isinstance(each, np.ndarray) and each.dtype in _HALF else each for each in arguments
    ], half


def narrowed(results: Sequence[Any], dtype: np.dtype[Any] | None) -> Sequence[Any]:
    """The results of a node, those in float32 rounded to ``dtype``."""
    if dtype is None:
        return results
    return [_round(each, dtype) for each in results]


def _round(value: Any, dtype: np.dtype[Any]) -> Any:
    array: NDArray[Any] = np.asarray(value)
    return array.astype(dtype) if array.dtype == np.float32 else value
