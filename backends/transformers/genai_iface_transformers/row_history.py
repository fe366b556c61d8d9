# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The caches of rows whose model keeps states: what they hold now, held before the last step, and at checkpoints.

Transformers changes states in place, so a step runs on copies of them, and what it began with stays as it was. Going
back is taking that up again, keys and values included; nothing is ever cropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

__all__ = ["RowHistory", "keeps_states", "state_tensors"]

_Int64 = NDArray[np.int64]


class RowHistory:
    """Implements ``StateStore`` with one cache of Transformers per row.

    Args:
        batch_size: B, the rows at the beginning.
        make_empty: Makes the cache of an empty row.

    Attributes:
        contents: Transformers' caches, one per row; a step replaces them and never writes to them.
    """

    def __init__(self, batch_size: int, make_empty: Callable[[], DynamicCache], /) -> None:
        self._make_empty = make_empty
        self.contents = [make_empty() for _ in range(batch_size)]
        self._next: list[DynamicCache] = []
        self._before = list(self.contents)
        self._begins = np.zeros(batch_size, np.int64)
        self._kept: list[dict[int, DynamicCache]] = [{} for _ in range(batch_size)]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that any length of a row needs; keys and values of earlier lengths are views."""
        every = [*self.contents, *self._before, *(kept for row in self._kept for kept in row.values())]
        states = {id(tensor): tensor for row in every for layer in row.layers for tensor in state_tensors(layer)}
        return sum(tensor.nbytes for tensor in states.values())

    def begin(self) -> list[DynamicCache]:
        """What a step runs on: copies that share no state with what the rows hold."""
        self._next = [copy.copy(row) for row in self.contents]
        for row in self._next:
            row.layers = [copy.deepcopy(layer) if keeps_states(layer) else copy.copy(layer) for layer in row.layers]
        return self._next

    def advance(self, lengths: _Int64, counts: _Int64 | int, /) -> None:
        """The copies take the place of what they were made of."""
        ran = np.broadcast_to(counts, lengths.shape) > 0
        self._before, self._begins = self.contents, lengths.copy()
        pairs = zip(ran.tolist(), self.contents, self._next, strict=True)
        self.contents = [new if has_run else old for has_run, old, new in pairs]
        self._next = []

    def reachable(self, row: int, length: int, /) -> set[int]:
        """The lengths that a row of this length can go back to."""
        return {0, length, int(self._begins[row]), *self._kept[row]}

    def rewind(self, old: _Int64, new: _Int64, /) -> None:
        """Takes up what rows held at these lengths."""
        for row in np.flatnonzero(new != old).tolist():
            length = int(new[row])
            if not length:
                self.contents[row] = self._make_empty()
            elif length in self._kept[row]:
                self.contents[row] = self._kept[row][length]
            else:
                self.contents[row] = self._before[row]
            self._begins[row] = length
            self._kept[row] = {at: kept for at, kept in self._kept[row].items() if at <= length}

    def reset(self, rows: _Int64, /) -> None:
        """Empty caches, and no checkpoints."""
        for row in rows.tolist():
            self.contents[row], self._kept[row] = self._make_empty(), {}
            self._begins[row] = 0

    def reorder(self, indices: _Int64, /) -> None:
        """Rows that become copies share their caches, which nobody writes to."""
        order = indices.tolist()
        self.contents, self._before = ([every[index] for index in order] for every in (self.contents, self._before))
        self._begins = self._begins[indices]
        self._kept = [dict(self._kept[index]) for index in order]

    def fork(self) -> Self:
        """An independent list of the same caches."""
        twin = copy.copy(self)
        twin.contents, twin._before, twin._begins = list(self.contents), list(self._before), self._begins.copy()
        twin._kept = [dict(kept) for kept in self._kept]
        return twin

    def close(self) -> None:
        """Frees everything."""
        self.contents, self._before, self._kept, self._next = [], [], [], []

    def keep(self, row: int, length: int, /) -> None:
        """Keeps what a row holds; an empty row needs nothing."""
        if length:
            self._kept[row][length] = self.contents[row]

    def kept(self, row: int, /) -> tuple[int, ...]:
        """The lengths that were kept of a row."""
        return tuple(sorted(self._kept[row])) if self._kept else ()

    def drop(self, row: int, length: int | None, /) -> None:
        """Forgets one of them, or all."""
        self._kept[row] = {at: kept for at, kept in self._kept[row].items() if length is not None and at != length}


def keeps_states(layer: Any) -> bool:
    """Whether a layer of a cache keeps states, beside keys and values or alone."""
    return isinstance(layer, LinearAttentionCacheLayerMixin)


def state_tensors(layer: Any) -> Iterator[torch.Tensor]:
    """The states of a layer that has any: convolutions first."""
    if keeps_states(layer):
        for states in (layer.conv_states, layer.recurrent_states):
            yield from (tensor for tensor in states.values() if tensor is not None)
