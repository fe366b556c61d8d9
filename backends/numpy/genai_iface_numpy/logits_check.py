# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Logits that no token can be chosen from: not a number, infinite, or all equal.

They are what a model gives whose values have left the range of their type somewhere on the way. A reference that
passed them on would have every other backend judged by them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["are_equal", "are_not_finite", "bad_logits"]


def bad_logits(logits: NDArray[Any]) -> str | None:
    """What is wrong with logits.

    Args:
        logits: (..., V), of any floating-point type.

    Returns:
        "not finite" or "all equal", for the first row that is bad; None if no row is. A single token may have
        minus infinity: that is how models rule out tokens.
    """
    if not logits.size:
        return None
    # NaN and infinity are both the largest of their row.
    largest = logits.max(axis=-1).astype(np.float64)
    if not np.isfinite(largest).all():
        return "not finite"
    smallest = logits.min(axis=-1).astype(np.float64)
    return "all equal" if logits.shape[-1] > 1 and (largest == smallest).any() else None


def are_not_finite(value: NDArray[Any]) -> bool:
    """Whether a value holds NaN or infinity. Minus infinity is legal: masks are made of it."""
    wide = value.astype(np.float32) if value.dtype.kind == "V" else value
    return bool(np.isnan(wide).any() or np.isposinf(wide).any())


def are_equal(value: NDArray[Any]) -> bool:
    """Whether some row of a value has the same number everywhere."""
    return value.ndim > 0 and value.shape[-1] > 1 and bool((value.max(axis=-1) == value.min(axis=-1)).any())
