# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The states of a cache's rows in the processor's memory: two buffers that change places, and checkpoints.

A step reads the states from one buffer and writes them to the other. If it fails, nothing has happened; if it
succeeds, the buffers change places, and what the step has read is still there: a row can go back to where the step
began for the price of nothing. Lengths further back need a copy that was taken there, a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import BackendError
from genai_iface.types import CacheSpec, CacheStyle

__all__ = ["RowStates", "StateStore", "cache_capabilities", "make_states"]

_STYLES: Mapping[CacheStyle, set[Capability]] = MappingProxyType(
    {
        "scatter": {Capability.CACHE_SCATTER, Capability.IN_PLACE},
        "shared": {Capability.CACHE_SHARED, Capability.IN_PLACE},
        "concat": {Capability.CACHE_CONCAT},
    }
)

_Int64 = NDArray[np.int64]
_State: TypeAlias = tuple[NDArray[Any], ...]


class StateStore(Protocol):
    """The states of B rows, as ``RowLengths`` calls for them; it books the lengths and checks every argument."""

    @property
    def nbytes(self) -> int:
        """Bytes of the states and of all checkpoints."""
        ...

    def advance(self, lengths: _Int64, counts: _Int64 | int, /) -> None:
        """A step has succeeded.

        Args:
            lengths: int64 (B,), the lengths before it.
            counts: Tokens of each row in it, int64 (B,), or one number for all rows.
        """
        ...

    def reachable(self, row: int, length: int, /) -> set[int]:
        """The lengths that a row of this length can go back to, 0 and this one among them."""
        ...

    def rewind(self, old: _Int64, new: _Int64, /) -> None:
        """Brings the states of rows from their old lengths, int64 (B,), to new ones, which are reachable."""
        ...

    def reset(self, rows: _Int64, /) -> None:
        """Empties rows and forgets their checkpoints."""
        ...

    def reorder(self, indices: _Int64, /) -> None:
        """Row i gets what row ``indices[i]`` has, checkpoints included."""
        ...

    def fork(self) -> Self:
        """An independent copy."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...

    def keep(self, row: int, length: int, /) -> None:
        """Keeps a copy of the states of a row of this length.

        Raises:
            MemoryError: There is no memory for it.
        """
        ...

    def kept(self, row: int, /) -> tuple[int, ...]:
        """The lengths that were kept of a row, in rising order."""
        ...

    def drop(self, row: int, length: int | None, /) -> None:
        """Forgets one of them, or all."""
        ...


class RowStates:
    """Implements ``StateStore`` with two NumPy arrays per state.

    Args:
        shapes: Shape of one row and element type of each state.
        batch_size: B, the rows at the beginning.

    Raises:
        MemoryError: There is no memory for them.
    """

    def __init__(self, shapes: Sequence[tuple[tuple[int, ...], DTypeLike]], batch_size: int, /) -> None:
        self._now = [np.zeros((batch_size, *shape), dtype) for shape, dtype in shapes]
        self._other = [np.zeros_like(state) for state in self._now]
        # Where the last step began; equal to the length where there is no way back.
        self._begins = np.zeros(batch_size, np.int64)
        self._kept: list[dict[int, _State]] = [{} for _ in range(batch_size)]
        self._has_run = np.zeros(batch_size, np.bool_)
        self.parity = 0

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers and of all checkpoints; one that several rows share counts once."""
        shared = {id(state): state for kept in self._kept for state in kept.values()}
        buffers = sum(state.nbytes for state in (*self._now, *self._other))
        return buffers + sum(part.nbytes for state in shared.values() for part in state)

    @property
    def present(self) -> Sequence[NDArray[Any]]:
        """The states after the last step, each (B, ...); not to be written to."""
        return tuple(self._now)

    # One step: any number of runs of the graph, then RowLengths.advance.

    def begin(self, lengths: _Int64, /) -> None:
        """A step begins: no row has run in it, and what the last step has read is about to be overwritten.

        Args:
            lengths: int64 (B,), the lengths before it.
        """
        self._has_run[:] = False
        self._begins[:] = lengths

    def runs_first(self, rows: slice | _Int64, /) -> bool:
        """Whether none of these rows has run in this step, so that ``past`` gives the buffers themselves."""
        return not self._has_run[rows].any()

    def past(self, rows: slice | _Int64, /) -> list[NDArray[Any]]:
        """What a run of these rows reads: the states before the step, or those that an earlier run of it gave.

        Returns:
            (rows, ...) each; views if the rows are neighbours and none has run in this step.
        """
        if self.runs_first(rows):
            return [state[rows] for state in self._now]
        ran = self._has_run[rows]
        return [
            np.where(ran.reshape(-1, *[1] * (old.ndim - 1)), new[rows], old[rows])
            for old, new in zip(self._now, self._other, strict=True)
        ]

    def target(self, rows: slice, /) -> list[NDArray[Any]]:
        """Where a run of neighbouring rows writes, (rows, ...) each; views. ``wrote`` has to follow."""
        return [state[rows] for state in self._other]

    def write(self, rows: slice | _Int64, states: Sequence[NDArray[Any]], /) -> None:
        """Takes what a run of these rows gave, (rows, ...) each."""
        for state, new in zip(self._other, states, strict=True):
            state[rows] = new
        self.wrote(rows)

    def wrote(self, rows: slice | _Int64, /) -> None:
        """Notes that a run has written to ``target``."""
        self._has_run[rows] = True

    # What RowLengths calls.

    def advance(self, lengths: _Int64, counts: _Int64 | int, /) -> None:
        """A step has succeeded: the buffers change places."""
        idle = np.flatnonzero(np.broadcast_to(counts, lengths.shape) == 0)
        for old, new in zip(self._now, self._other, strict=True):
            # Bit by bit: a run may have turned -0.0 into +0.0.
            new[idle] = old[idle]
        self._now, self._other = self._other, self._now
        self.parity = 1 - self.parity
        self._begins = lengths.copy()

    def reachable(self, row: int, length: int, /) -> set[int]:
        """The lengths that a row of this length can go back to."""
        return {0, length, int(self._begins[row]), *self._kept[row]}

    def rewind(self, old: _Int64, new: _Int64, /) -> None:
        """Brings the states of rows back; if all go to where the last step began, the buffers change places."""
        changed = np.flatnonzero(new != old)
        back = [row for row in changed.tolist() if new[row] and new[row] == self._begins[row]]
        if len(back) == len(old):
            self._now, self._other = self._other, self._now
            self.parity = 1 - self.parity
        else:
            for now, other in zip(self._now, self._other, strict=True):
                now[back] = other[back]
        for row in changed.tolist():
            self._begins[row] = length = int(new[row])
            if row not in back:
                self._set(row, self._kept[row].get(length))
            self._kept[row] = {at: state for at, state in self._kept[row].items() if at <= length}

    def _set(self, row: int, state: _State | None) -> None:
        """Zeros for None."""
        for index, now in enumerate(self._now):
            now[row] = 0 if state is None else state[index]

    def restore(self, row: int, length: int, state: Sequence[NDArray[Any]], /) -> None:
        """Sets the states of a row, one array without the batch axis for each."""
        # Where NumPy lacks the type, a buffer holds the same bits as integers.
        self._set(row, tuple(part.view(now.dtype) for part, now in zip(state, self._now, strict=True)))
        self._begins[row] = length
        self._kept[row] = {}

    def reset(self, rows: _Int64, /) -> None:
        """Zeros, and no checkpoints."""
        for now in self._now:
            now[rows] = 0
        self._begins[rows] = 0
        for row in rows.tolist():
            self._kept[row] = {}

    def reorder(self, indices: _Int64, /) -> None:
        """Row i gets what row ``indices[i]`` has; rows that become copies share checkpoints, which nobody writes to."""
        if len(indices) == len(self._begins):
            # Buffers stay where they are, and rows that stay where they are cost nothing.
            moved = np.flatnonzero(indices != np.arange(len(indices)))
            for state in (*self._now, *self._other):
                state[moved] = state[indices[moved]]
        else:
            # One tensor at a time: the peak is one buffer above the final size.
            self._now = [state[indices] for state in self._now]
            self._other = [state[indices] for state in self._other]
        self._begins = self._begins[indices]
        self._kept = [dict(self._kept[index]) for index in indices.tolist()]
        self._has_run = np.zeros(len(indices), np.bool_)

    def fork(self) -> Self:
        """An independent copy; checkpoints are shared, which nobody writes to."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._now, twin._other = ([state.copy() for state in each] for each in (self._now, self._other))
        twin._begins, twin._has_run = self._begins.copy(), self._has_run.copy()
        twin._kept = [dict(kept) for kept in self._kept]
        return twin

    def close(self) -> None:
        """Frees everything."""
        self._now, self._other, self._kept = [], [], []

    # Checkpoints.

    def keep(self, row: int, length: int, /) -> None:
        """Keeps a copy of a row's states; an empty row needs none.

        Raises:
            MemoryError: There is no memory for it.
        """
        if length and length not in self._kept[row]:
            self._kept[row][length] = tuple(now[row].copy() for now in self._now)

    def kept(self, row: int, /) -> tuple[int, ...]:
        """The lengths that were kept of a row."""
        return tuple(sorted(self._kept[row])) if self._kept else ()

    def drop(self, row: int, length: int | None, /) -> None:
        """Forgets one of them, or all."""
        self._kept[row] = {at: state for at, state in self._kept[row].items() if length is not None and at != length}


def make_states(shapes: Sequence[tuple[tuple[int, ...], DTypeLike]], batch_size: int, /) -> RowStates:
    """The states of a new cache; arguments as ``RowStates``.

    Raises:
        BackendError: There is no memory for them.
    """
    try:
        return RowStates(shapes, batch_size)
    except MemoryError as error:
        raise BackendError(
            f"No memory for the states of {batch_size} rows", remedy="Ask for a smaller batch."
        ) from error


def cache_capabilities(cache: CacheSpec, /, style: CacheStyle | None = None) -> frozenset[Capability]:
    """What a backend that does all it can declares for a cache of this kind.

    Args:
        cache: The model's.
        style: How a step updates it, where the capabilities should say so.

    Returns:
        How rows can go back, whether buffers are rings, and the style. A cache of states alone has no style.
    """
    found = {Capability.CACHE_CIRCULAR} if cache.is_circular else set()
    if style is not None and cache.layers:
        found |= _STYLES[style]
    if cache.states:
        return frozenset({*found, Capability.STATE, Capability.REWIND_STEP, Capability.CHECKPOINT})
    return frozenset(found if cache.is_circular else {*found, Capability.REWIND})
