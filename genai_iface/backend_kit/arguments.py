# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every backend checks before it makes a cache, touches one or runs a step.

Backends call these, so that the same bad input gives the same error on all of them. The functions
look at arguments only; nothing here knows a runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import CacheOverflowError, InvalidInputError, UnsupportedCapabilityError
from genai_iface.types import LogitsMode, ModelSpec

__all__ = [
    "NEEDS_ROWS",
    "Step",
    "capacity_bound",
    "check_batch_and_capacity",
    "check_indices",
    "check_lengths",
    "check_loaded",
    "check_rows",
    "check_step",
]

NEEDS_ROWS = frozenset({Capability.BATCH, Capability.RAGGED, Capability.REORDER})
"""What a model does not declare whose graph takes one row (``GraphSignature.one_row``)."""

_Int64 = NDArray[np.int64]
_FEW = 64
_UNBOUNDED = int(np.iinfo(np.int32).max)

RuntimeT = TypeVar("RuntimeT")


@dataclass(frozen=True, slots=True)
class Step:
    """A checked step.

    Attributes:
        input_ids: int64 (B, S), a copy; padding is replaced by token 0.
        counts: int64 (B,), the real tokens of each row.
        logits: Which logits are wanted.
        is_ragged: Whether any row has fewer than S real tokens.
    """

    input_ids: _Int64
    counts: _Int64
    logits: LogitsMode
    is_ragged: bool


def check_step(
    input_ids: ArrayLike,
    counts: ArrayLike | None,
    logits: LogitsMode,
    /,
    *,
    lengths: _Int64,
    capacity: int,
    vocab_size: int,
) -> Step:
    """Checks the arguments of ``Model.forward``.

    Args:
        input_ids: As given by the caller.
        counts: As given by the caller.
        logits: As given by the caller.
        lengths: int64 (B,), the rows' lengths.
        capacity: The cache's capacity.
        vocab_size: V; real token ids must be below it.

    Raises:
        InvalidInputError: Wrong shape or type, or a value out of range.
        CacheOverflowError: A row has no room.
    """
    ids = _integers(input_ids, "input_ids")
    if ids.ndim != 2 or ids.shape[0] != len(lengths) or ids.shape[1] < 1:
        raise InvalidInputError(
            f"input_ids has shape {ids.shape}, the cache has {len(lengths)} rows",
            remedy=f"Pass an array of shape ({len(lengths)}, S) with S at least 1.",
        )
    width = ids.shape[1]
    if logits not in ("last", "all", "none"):
        raise InvalidInputError(f"logits={logits!r} is not legal", remedy='Legal: "last", "all", "none".')
    if counts is None:
        real = np.full(len(lengths), width, dtype=np.int64)
        is_ragged = False
    else:
        real = _integers(counts, "counts")
        sizes: list[int] = real.tolist() if real.shape == lengths.shape else [-1]
        if min(sizes) < 0 or max(sizes) > width:
            raise InvalidInputError(
                f"counts={real.tolist()} is not legal for input_ids of shape {ids.shape}",
                remedy=f"Pass {len(lengths)} integers from 0 to {width}.",
            )
        is_ragged = min(sizes) < width
    if is_ragged:
        ids = np.where(np.arange(width) < real[:, None], ids, 0)
    if ids.size <= _FEW and _is_plain(ids, lengths, width, capacity, vocab_size):
        return Step(ids, real, logits, is_ragged)
    bad = (ids < 0) | (ids >= vocab_size)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise InvalidInputError(
            f"input_ids[{row}, {column}] is {int(ids[row, column])}, the vocabulary has {vocab_size} tokens",
            remedy="Use the tokenizer of the same folder.",
        )
    needed = lengths + real
    if (needed > capacity).any():
        over = np.flatnonzero((needed > capacity) & (real > 0))
        if over.size:
            raise CacheOverflowError(int(over[0]), int(needed[over[0]]), capacity)
    return Step(ids, real, logits, is_ragged)


def _is_plain(ids: _Int64, lengths: _Int64, width: int, capacity: int, vocab_size: int) -> bool:
    """Whether a small step is legal; in Python, because after a step NumPy's code is cold and takes longer."""
    values = ids.ravel().tolist()
    return min(values) >= 0 and max(values) < vocab_size and max(lengths.tolist()) + width <= capacity


def check_lengths(lengths: ArrayLike, current: _Int64, /) -> _Int64:
    """Checks the argument of ``KVCache.rewind_to``; a scalar stands for all rows.

    Returns:
        int64 (B,), a copy.

    Raises:
        InvalidInputError: Wrong shape, negative, or longer than a row is.
    """
    wanted = _integers(lengths, "lengths")
    if wanted.ndim == 0:
        wanted = np.full_like(current, wanted)
    if wanted.shape != current.shape:
        raise InvalidInputError(
            f"lengths has shape {wanted.shape}, the cache has {len(current)} rows",
            remedy="Pass one integer, or one per row.",
        )
    bad = np.flatnonzero((wanted < 0) | (wanted > current))
    if bad.size:
        row = int(bad[0])
        raise InvalidInputError(
            f"Row {row} has {int(current[row])} tokens and cannot become {int(wanted[row])} long",
            remedy="Rewinding only shortens: pass 0 <= length <= the row's length.",
        )
    return wanted


def check_indices(indices: ArrayLike, batch_size: int, /) -> _Int64:
    """Checks the argument of ``KVCache.reorder``.

    Returns:
        int64 (B',), a copy.

    Raises:
        InvalidInputError: Wrong rank, empty, or out of range.
    """
    wanted = _integers(indices, "indices")
    if wanted.ndim != 1 or not wanted.size or np.any((wanted < 0) | (wanted >= batch_size)):
        raise InvalidInputError(
            f"indices={wanted.tolist()} is not legal for a cache of {batch_size} rows",
            remedy=f"Pass a list of at least one integer from 0 to {batch_size - 1}.",
        )
    return wanted


def check_rows(rows: ArrayLike | None, batch_size: int, /) -> _Int64:
    """Checks the argument of ``KVCache.reset``; None stands for all rows.

    Returns:
        int64 (K,), a copy.

    Raises:
        InvalidInputError: Wrong rank or out of range.
    """
    if rows is None:
        return np.arange(batch_size, dtype=np.int64)
    wanted = np.atleast_1d(_integers(rows, "rows"))
    if wanted.ndim != 1 or np.any((wanted < 0) | (wanted >= batch_size)):
        raise InvalidInputError(
            f"rows={wanted.tolist()} is not legal for a cache of {batch_size} rows",
            remedy=f"Pass integers from 0 to {batch_size - 1}.",
        )
    return wanted


def capacity_bound(spec: ModelSpec, /) -> int | None:
    """The most tokens that a row of a model's cache may have: its context, or less where the graph fixes the buffers.

    Returns:
        The bound, or None where there is none.
    """
    bounds = [bound for bound in (spec.context_length, spec.cache.fixed_capacity) if bound is not None]
    return min(bounds, default=None)


def check_batch_and_capacity(
    batch_size: int, capacity: int | None, limit: int | None, /, *, one_row: bool = False
) -> int:
    """Checks the arguments of ``Model.create_cache``.

    Args:
        batch_size: B, the rows that were asked for.
        capacity: C, or None.
        limit: The largest legal capacity, or None; see ``capacity_bound``.
        one_row: The graph takes no more (``GraphSignature.one_row``).

    Returns:
        The capacity that the cache is to have.

    Raises:
        InvalidInputError: A value is out of range.
        UnsupportedCapabilityError: More rows than the graph takes.
    """
    if batch_size < 1:
        raise InvalidInputError(f"batch_size={batch_size} is not legal", remedy="Pass at least 1.")
    if one_row and batch_size > 1:
        raise UnsupportedCapabilityError(
            f"The graph was traced with one row and cannot take {batch_size}",
            capability=Capability.BATCH,
            remedy="Export it with sample inputs of two rows, or pass batch_size=1.",
        )
    if capacity is None:
        return _UNBOUNDED if limit is None else limit
    if capacity < 1:
        raise InvalidInputError(f"capacity={capacity} is not legal", remedy="Pass at least 1, or None.")
    if limit is not None and capacity > limit:
        raise InvalidInputError(
            f"capacity={capacity} is beyond the {limit} tokens that the model allows",
            remedy=f"Pass at most {limit}, or None.",
        )
    return capacity


def check_loaded(runtime: RuntimeT | None, /) -> RuntimeT:
    """Gives what a model runs on, which ``Model.close`` sets to None.

    Raises:
        InvalidInputError: The model is closed.
    """
    if runtime is None:
        raise InvalidInputError("The model is closed", remedy="Load it again.")
    return runtime


def _integers(values: ArrayLike, name: str) -> _Int64:
    array = np.asarray(values)
    # By kind: np.issubdtype takes longer than all the rest.
    if array.size == 0 and array.dtype.kind not in "iu":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"{name} has element type {array.dtype}", remedy="Pass integers.")
    return array.astype(np.int64)
