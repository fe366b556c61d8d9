# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How far a number may be off: sums by the square root of their terms, stores by that of their number.

A sum of R terms kept in float32 errs by about sqrt(R) roundings of float32, whatever the model's dtype:
kernels for half types keep their sums in float32. What they store is rounded to the dtype, n times on the
way from a token to a logit. Roundings are taken as independent, hence the square roots; the largest of
thousands of such errors is about twice the root of their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["STORE_FACTOR", "SUM_FACTOR", "UNIT_ROUNDOFF", "relative_tolerance"]

UNIT_ROUNDOFF: Mapping[str, float] = MappingProxyType({"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8})
"""Half the distance from 1 to the next number."""

SUM_FACTOR = 8.0
"""Room for the order of summation, and for approximations of exp and tanh."""

STORE_FACTOR = 2.0
"""The largest of many independent rounding errors, against their root mean square bound."""


def relative_tolerance(dtype: str, reduction_length: int, num_stores: int, /, *, factor: float = 1.0) -> float:
    """The largest legal error, relative to the largest magnitude of the reference.

    Args:
        dtype: "float32", "float16" or "bfloat16".
        reduction_length: Terms summed on the longest way from input to output.
        num_stores: Tensors stored on that way.
        factor: Above 0 and at most 1: vendors may tighten, never loosen.

    Raises:
        ValueError: The factor is out of range.
    """
    if not 0 < factor <= 1:
        raise ValueError(f"the tolerance factor is {factor}: it may tighten (0 < factor <= 1), never loosen")
    sums = SUM_FACTOR * UNIT_ROUNDOFF["float32"] * float(reduction_length) ** 0.5
    stores = 0.0 if dtype == "float32" else STORE_FACTOR * UNIT_ROUNDOFF[dtype] * float(num_stores) ** 0.5
    return float((sums + stores) * factor)
