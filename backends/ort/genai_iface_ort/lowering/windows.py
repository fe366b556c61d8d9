# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Shows that an explicit mask hides what causality hides, and what lies before a sliding window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph import GraphSignature, constant_tensor
from genai_iface.transform import GRAPH_ERRORS
from genai_iface_ort.lowering.positions import Cone, cone_of

__all__ = ["NO_WINDOW", "is_bias", "window_of"]

_Visible: TypeAlias = NDArray[np.bool_]

NO_WINDOW = -1
"""Every earlier key is seen, as the operator's attribute says it."""

# Scores this low take no part in a softmax where another one is finite, as the query's own is.
_HIDDEN = -1e4
# Masks are tried at every number that they mention; up to this one they take some megabytes.
_LONGEST = 1 << 20
# Larger ones are ends of slices.
_NO_END = (1 << 31) - 1
_FULL = 640


def window_of(model: ir.Model, signature: GraphSignature, mask: ir.Value, *, is_causal: bool) -> int | None:
    """The number of keys that a query sees through a mask, its own among them; ``NO_WINDOW`` for all of them.

    The mask is run on steps of ragged rows around every number that its arithmetic mentions. Only keys that hold a
    token count: the operator looks at no other.

    Args:
        model: The model.
        signature: Its signature.
        mask: Boolean, or added to the scores; (B, 1, S, C), or what broadcasts to it.
        is_causal: Keys after the query are hidden by other means.

    Returns:
        None if the mask is neither causal nor a window, or cannot be shown to be.
    """
    cone = cone_of(model, signature, mask, comparisons=True)
    numbers = None if cone is None else _numbers(cone)
    if cone is None or numbers is None:
        return None
    try:
        return _shown(cone, numbers, is_causal)
    except GRAPH_ERRORS:
        # A mask of a fixed length, say: it is not known at the steps tried.
        return None


def is_bias(model: ir.Model, signature: GraphSignature, mask: ir.Value, *, heads: int) -> bool:
    """Whether a mask gives every head (or all of them the same) numbers to add, and never hides a query's own key.

    A row of scores that are all hidden is 0 by the standard, and no number by the kernel.
    """
    cone = cone_of(model, signature, mask, comparisons=True)
    if cone is None:
        return False
    for starts, width, slack in _steps(set()):
        begin = np.array(starts, np.int64)
        capacity = int(begin.max()) + width + slack
        try:
            added = cone.run(begin, width, capacity)
        except GRAPH_ERRORS:
            return False
        if added.ndim != 4 or added.dtype == np.bool_ or added.shape[2:] != (width, capacity):
            return False
        if added.shape[0] not in (1, len(begin)) or added.shape[1] not in (1, heads):
            return False
        own = np.broadcast_to(begin[:, None, None, None] + np.arange(width)[:, None], (len(begin), 1, width, 1))
        whole = np.broadcast_to(added, (len(begin), *added.shape[1:])).astype(np.float64)
        owns = np.take_along_axis(whole, np.broadcast_to(own, (*whole.shape[:3], 1)), axis=3)
        if not (np.isfinite(owns) & (owns > _HIDDEN)).all():
            return False
    return True


def _shown(cone: Cone, numbers: set[int], is_causal: bool) -> int | None:
    window: int | None = None
    for starts, width, slack in _steps(numbers):
        begin = np.array(starts, np.int64)
        shown = _visible(cone.run(begin, width, int(begin.max()) + width + slack), begin, width)
        if shown is None:
            return None
        if window is None:
            # The first step is the longest: what its last query sees decides.
            seen = _seen(shown, begin, width, is_causal)[0, 0, -1]
            window = NO_WINDOW if seen[: begin[0] + width].all() else int(seen.sum())
        if not np.array_equal(_seen(shown, begin, width, is_causal), _wanted(begin, width, shown.shape[-1], window)):
            return None
    return window


def _steps(numbers: set[int]) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Lengths of rows before the step, new tokens, and room to spare; the longest first."""
    longest = max(numbers, default=0) + 7
    yield (longest, 3, 0), 2, 5
    yield (longest + 3, 0, longest // 2), 3, 0
    yield from (((0, 0), 1, 0), ((5, 0), 3, 2), ((2, 11), 1, 0), ((0,), 4, 1))
    for number in sorted(numbers):
        yield (max(number - 2, 0), number, number + 1), 2, 1
    if longest <= _FULL:
        yield (0, 1), longest, 3


def _numbers(cone: Cone) -> set[int] | None:
    """The positive integers in the arithmetic; None if one is too large to try."""
    found: set[int] = set()
    for value in cone.values:
        tensor = constant_tensor(value)
        if tensor is None or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT):
            continue
        if tensor.size > 64:
            return None
        found |= {abs(int(number)) for number in tensor.numpy().ravel() if abs(number) < _NO_END}
    return None if max(found, default=0) > _LONGEST else found


def _visible(mask: NDArray[Any] | None, starts: NDArray[np.int64], width: int) -> _Visible | None:
    """Bool (B, heads, S, C); None where the mask adds to a score that it does not hide."""
    if mask is None or mask.ndim not in (2, 3, 4):
        return None
    if mask.dtype != np.bool_:
        numbers = mask.astype(np.float64)
        if not ((numbers == 0) | (numbers <= _HIDDEN)).all():
            return None
        mask = numbers == 0
    # A mask of rank 3 has the heads first.
    shape = (1,) * (4 - mask.ndim) + mask.shape
    if shape[0] not in (1, len(starts)) or shape[2] not in (1, width) or shape[3] < int(starts.max()) + width:
        return None
    heads = mask.reshape(shape)
    return np.broadcast_to(heads, (len(starts), shape[1], width, shape[3]))


def _seen(visible: _Visible, starts: NDArray[np.int64], width: int, is_causal: bool) -> _Visible:
    """What a query sees of the keys that hold a token."""
    own = starts[:, None, None, None] + np.arange(width)[:, None]
    last = own if is_causal else own[:, :, -1:]
    seen: _Visible = visible & (np.arange(visible.shape[-1]) <= last)
    return seen


def _wanted(starts: NDArray[np.int64], width: int, keys: int, window: int) -> _Visible:
    """What the operator shows: causal, and no more than the window."""
    own = starts[:, None, None, None] + np.arange(width)[:, None]
    every = np.arange(keys)
    seen: _Visible = every <= own
    if window != NO_WINDOW:
        seen = seen & (every > own - window)
    return seen
