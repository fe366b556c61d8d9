# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of token ids as callers give them, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError

__all__ = ["as_ids", "as_rows"]


def as_ids(row: Sequence[Any], vocab_size: int) -> NDArray[np.int64]:
    """Token ids as an array (T,).

    Raises:
        InvalidInputError: They are not integers, or one is out of range.
    """
    if not len(row):
        return np.empty(0, dtype=np.int64)
    ids = np.asarray(row)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidInputError(
            f"Token ids must be integers, not {ids.dtype} of shape {ids.shape}", remedy="Pass a list of integers."
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
        raise InvalidInputError(
            f"The token id {wrong} is out of range, the model has ids from 0 to {vocab_size - 1}",
            remedy="Leave that token out, or check whether this is the model's tokenizer: one that it shares with a "
            "model of images may have tokens that a model of text lacks.",
        )
    return ids.astype(np.int64)


def as_rows(token_ids: Sequence[int] | Sequence[Sequence[int]], num_sequences: int) -> Sequence[Sequence[int]]:
    """One list per sequence.

    Raises:
        InvalidInputError: There are more or fewer lists.
    """
    is_single = all(isinstance(item, (int, np.integer)) for item in token_ids)
    rows = cast("Sequence[Sequence[int]]", [token_ids] if is_single and num_sequences == 1 else token_ids)
    if len(rows) != num_sequences or (is_single and num_sequences > 1):
        raise InvalidInputError(
            f"{len(rows)} lists of tokens for {num_sequences} sequences", remedy="Give one list per sequence."
        )
    return rows
