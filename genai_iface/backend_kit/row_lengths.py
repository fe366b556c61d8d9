# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The lengths of a cache's rows: what every cache books, whatever holds its keys and values.

A cache has a ``RowLengths`` under the name ``rows`` and hands on to it. A method that moves memory asks
``check_reorder`` (or ``check_rewind``, ``check_reset``) first, moves, and then calls ``reorder``: on an error
nothing has changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit.arguments import check_indices, check_lengths, check_rows
from genai_iface.backend_kit.row_states import StateStore
from genai_iface.capabilities import Capability
from genai_iface.errors import BackendError, CacheRewindError, InvalidInputError, UnsupportedCapabilityError

__all__ = ["RowLengths", "check_cache", "stored_positions"]

_Int64 = NDArray[np.int64]


class RowLengths:
    """Tokens in each row, whether the cache is open, and how far rows can go back.

    Args:
        batch_size: B, the rows at the beginning.
        capacity: Most tokens per row.
        owner: The model that made the cache; it is not kept alive.
        windows: Tokens that each layer keeps if it is circular, None for a linear one.
        states: What the model keeps besides keys and values, if anything.
    """

    def __init__(
        self,
        batch_size: int,
        capacity: int,
        /,
        *,
        owner: object,
        windows: Iterable[int | None] = (),
        states: StateStore | None = None,
    ) -> None:
        self._lengths = np.zeros(batch_size, np.int64)
        self._capacity = capacity
        self._owner = weakref.ref(owner)
        # The layer that keeps least loses a token first, and nothing is lost later elsewhere that is not lost there.
        self._window = min((window for window in windows if window is not None), default=None)
        self._states = states
        self._is_open = True

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self._capacity

    @property
    def lengths(self) -> _Int64:
        """Tokens in each row, int64 (B,), a copy."""
        return self._lengths.copy()

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self._lengths.max())

    @property
    def is_open(self) -> bool:
        """False after ``close``."""
        return self._is_open

    def belongs_to(self, model: object, /) -> bool:
        """Whether this model made the cache."""
        return model is not None and self._owner() is model

    def check_open(self) -> None:
        """Raises InvalidInputError if the cache is closed."""
        if not self._is_open:
            raise InvalidInputError("The cache is closed", remedy="Create another with model.create_cache().")

    # What the methods of KVCache check.

    def check_rewind(self, lengths: ArrayLike, /) -> _Int64:
        """Checks the argument of ``KVCache.rewind_to``.

        Returns:
            int64 (B,), the new lengths.

        Raises:
            InvalidInputError: The cache is closed, or a length is not legal.
            CacheRewindError: A circular layer lacks what a shorter row needs.
        """
        self.check_open()
        wanted = check_lengths(lengths, self._lengths)
        row = self._first_lost_row(wanted)
        if row is not None:
            reason = f"a circular layer keeps {self._window} tokens and has lost some that the shorter row needs"
            raise CacheRewindError(row, int(wanted[row]), int(self._lengths[row]), reason)
        row = self._first_unreachable_row(wanted)
        if row is not None:
            lengths = ", ".join(map(str, sorted(self._reachable(row))))
            reason = f"the model keeps states, and those of that length are gone; it can go to {lengths}"
            raise CacheRewindError(row, int(wanted[row]), int(self._lengths[row]), reason)
        return wanted

    def check_reorder(self, indices: ArrayLike, /) -> _Int64:
        """Checks the argument of ``KVCache.reorder``.

        Returns:
            int64 (B',), which old row each new row is.

        Raises:
            InvalidInputError: The cache is closed, or an index is not legal.
        """
        self.check_open()
        return check_indices(indices, self.batch_size)

    def check_reset(self, rows: ArrayLike | None, /) -> _Int64:
        """Checks the argument of ``KVCache.reset``.

        Returns:
            int64 (K,), the rows.

        Raises:
            InvalidInputError: The cache is closed, or an index is not legal.
        """
        self.check_open()
        return check_rows(rows, self.batch_size)

    def check_read(self, layer: int, row: int, num_layers: int, /) -> int:
        """Checks the arguments of ``SupportsInspect.read``.

        Returns:
            The length of the row.

        Raises:
            InvalidInputError: The cache is closed, or there is no such layer or row.
        """
        self.check_open()
        if not 0 <= layer < num_layers or not 0 <= row < self.batch_size:
            raise InvalidInputError(
                f"layer {layer}, row {row} is not in a cache of {num_layers} layers, {self.batch_size} rows",
                remedy="Count both from 0.",
            )
        return int(self._lengths[row])

    # What they book; each checks what its namesake above checks.

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed."""
        self.check_open()
        wanted = check_lengths(lengths, self._lengths)
        return self._first_lost_row(wanted) is None and self._first_unreachable_row(wanted) is None

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Makes rows shorter."""
        wanted = self.check_rewind(lengths)
        if self._states is not None:
            self._states.rewind(self._lengths, wanted)
        self._lengths = wanted

    def reorder(self, indices: ArrayLike, /) -> None:
        """Row i gets the length, and the states, of row ``indices[i]``."""
        wanted = self.check_reorder(indices)
        if self._states is not None:
            self._states.reorder(wanted)
        self._lengths = self._lengths[wanted]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows, all of them for None."""
        wanted = self.check_reset(rows)
        if self._states is not None:
            self._states.reset(wanted)
        self._lengths[wanted] = 0

    def advance(self, counts: _Int64 | int, /) -> None:
        """Books a finished step: int64 (B,), or one number for all rows."""
        if self._states is not None:
            self._states.advance(self._lengths, counts)
        self._lengths += counts

    def restore(self, row: int, length: int, /) -> None:
        """Sets the length of a row whose content was loaded."""
        self._lengths[row] = length

    def fork(self) -> RowLengths:
        """An independent copy.

        Raises:
            InvalidInputError: The cache is closed.
        """
        self.check_open()
        twin = RowLengths.__new__(RowLengths)
        twin.__dict__.update(self.__dict__)
        twin._lengths = self._lengths.copy()
        twin._states = None if self._states is None else self._states.fork()
        return twin

    def close(self) -> None:
        """Ends all but the reading of properties; a second call does nothing."""
        self._is_open = False
        if self._states is not None:
            self._states.close()

    # What the methods of SupportsCheckpoint do.

    @property
    def states(self) -> StateStore | None:
        """What the model keeps besides keys and values, None for one of attention alone."""
        return self._states

    @property
    def state_nbytes(self) -> int:
        """Bytes of the states and of all checkpoints."""
        return 0 if self._states is None else self._states.nbytes

    def checkpoint(self, rows: ArrayLike | None = None, /) -> None:
        """Keeps the states of rows at their present lengths.

        Raises:
            InvalidInputError: The cache is closed, or an index is not legal.
            UnsupportedCapabilityError: The model keeps no states.
            BackendError: Out of memory.
        """
        wanted, states = self.check_reset(rows), self._check_states()
        done: list[int] = []
        try:
            for row in wanted.tolist():
                if int(self._lengths[row]) not in states.kept(row):
                    states.keep(row, int(self._lengths[row]))
                    done.append(row)
        except MemoryError as error:
            for row in done:
                states.drop(row, int(self._lengths[row]))
            raise BackendError(
                f"No memory for checkpoints of {len(wanted)} rows", remedy="Drop others first, or close caches."
            ) from error

    def checkpoints(self, row: int, /) -> tuple[int, ...]:
        """The lengths of a row that were kept and can be reached.

        Raises:
            InvalidInputError: The cache is closed, or there is no such row.
            UnsupportedCapabilityError: The model keeps no states.
        """
        (at,) = self.check_reset([row]).tolist()
        kept = self._check_states().kept(at)
        # A circular layer that has wrapped since lacks the keys of what was kept.
        return tuple(length for length in kept if self._first_lost_row(self._with(at, length)) is None)

    def drop(self, row: int, length: int | None = None, /) -> None:
        """Forgets the checkpoint of a row at a length, or all of the row.

        Raises:
            InvalidInputError: The cache is closed, there is no such row, or no checkpoint of that length.
            UnsupportedCapabilityError: The model keeps no states.
        """
        (at,) = self.check_reset([row]).tolist()
        states = self._check_states()
        if length is not None and length not in states.kept(at):
            there = ", ".join(map(str, states.kept(at))) or "none"
            raise InvalidInputError(
                f"Row {at} has no checkpoint at {length}; it has {there}", remedy="Ask checkpoints() for those it has."
            )
        states.drop(at, length)

    def _check_states(self) -> StateStore:
        if self._states is None:
            raise UnsupportedCapabilityError(
                "This model keeps no states, so its cache has no checkpoints",
                capability=Capability.CHECKPOINT,
                remedy="Use rewind_to: keys and values need no checkpoint.",
            )
        return self._states

    def _with(self, row: int, length: int) -> _Int64:
        """The lengths with one row changed."""
        changed = self._lengths.copy()
        changed[row] = length
        return changed

    def _reachable(self, row: int) -> set[int]:
        length = int(self._lengths[row])
        if self._states is None:
            return set(range(length + 1))
        return {at for at in self._states.reachable(row, length) if self._first_lost_row(self._with(row, at)) is None}

    def _first_unreachable_row(self, wanted: _Int64) -> int | None:
        """The first row whose states at the wanted length are gone."""
        if self._states is None:
            return None
        pairs = enumerate(zip(self._lengths.tolist(), wanted.tolist(), strict=True))
        return next((row for row, (now, to) in pairs if to not in self._states.reachable(row, now)), None)

    def _first_lost_row(self, wanted: _Int64) -> int | None:
        """The first row of which a circular layer lacks what the shorter row needs."""
        if self._window is None:
            return None
        # Kept are the tokens from length - window on, needed those from wanted - window on; an empty row needs none.
        lost = np.flatnonzero((self._lengths > self._window) & (wanted < self._lengths) & (wanted > 0))
        return int(lost[0]) if lost.size else None


def check_cache(cache: object, model: object, /) -> RowLengths:
    """Checks the cache that a method of a model was given.

    Args:
        cache: As given by the caller; a backend's own has ``RowLengths`` under the name ``rows``.
        model: The model whose method was called.

    Returns:
        The cache's row lengths.

    Raises:
        InvalidInputError: The cache is closed, or another model made it.
    """
    rows = getattr(cache, "rows", None)
    if not isinstance(rows, RowLengths) or not rows.belongs_to(model):
        raise InvalidInputError("The cache was not made by this model", remedy="Use this model's create_cache().")
    rows.check_open()
    return rows


def stored_positions(length: int, window: int | None, /) -> _Int64:
    """Where the buffer of a row of this length holds its tokens.

    Args:
        length: Tokens of the row.
        window: Positions of a circular layer's buffer, None for a linear one.

    Returns:
        int64 (L,), positions in the buffer, the oldest token first.
    """
    if window is None or length <= window:
        return np.arange(length)
    return np.arange(length - window, length) % window
