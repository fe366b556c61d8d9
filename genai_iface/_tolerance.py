# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How far apart the logits of two runs are, and how far they may be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOGIT_TOLERANCES", "ROUNDED_ACTIVATIONS_TOLERANCE", "relative_difference"]

LOGIT_TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "int8": 2e-2}
"""Largest legal difference of a logit by the element type of the cache, as a part of the largest logit.

In an int8 cache, a number that lies between two integers may be rounded to either.
"""

ROUNDED_ACTIVATIONS_TOLERANCE = 5e-2
"""As ``LOGIT_TOLERANCES``, where a runtime rounds activations to int8 before products with int4 or int8 weights.

Each product then has an error of its own, of about 1/254 of the largest activation of a block.
"""


def relative_difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference of an element, as a part of the largest magnitude expected.

    Args:
        got: Logits of any shape.
        expected: Logits of the same shape.

    Returns:
        At least 0; infinity if either holds NaN or infinity, which would compare with nothing.
    """
    distance = float(np.abs(got - expected).max())
    return distance / max(float(np.abs(expected).max()), 1e-30) if np.isfinite(distance) else float("inf")
