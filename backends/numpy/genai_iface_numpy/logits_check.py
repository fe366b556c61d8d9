# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Logits that no token can be chosen from: not a number, infinite, or all equal.

They are what a model gives whose values have left the range of their type somewhere on the way. A reference that
passed them on would have every other backend judged by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fault", "fault_of"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with logits.

    Attributes:
        description: The fault as an error message says it.
        shows_in: Whether a value on the way to the logits has it already.
    """

    description: str
    shows_in: Callable[[NDArray[Any]], bool]

    def __str__(self) -> str:
        return self.description


def fault_of(logits: NDArray[Any]) -> Fault | None:
    """The fault of the first row that has one.

    Args:
        logits: (..., V), of any floating-point type. A single token may have minus infinity: that is how models
            rule out tokens.
    """
    if not logits.size:
        return None
    # NaN and infinity are both the largest of their row.
    largest = logits.max(axis=-1).astype(np.float64)
    if not np.isfinite(largest).all():
        return Fault("not finite", _is_not_finite)
    smallest = logits.min(axis=-1).astype(np.float64)
    if logits.shape[-1] > 1 and (largest == smallest).any():
        return Fault("all equal", _is_constant)
    return None


def _is_not_finite(value: NDArray[Any]) -> bool:
    """Whether a value holds NaN or infinity. Minus infinity is legal: masks are made of it."""
    wide = value.astype(np.float32)
    return bool(np.isnan(wide).any() or np.isposinf(wide).any())


def _is_constant(value: NDArray[Any]) -> bool:
    """Whether a row of a value has the same number everywhere."""
    return value.ndim > 0 and value.shape[-1] > 1 and bool((value.max(axis=-1) == value.min(axis=-1)).any())
