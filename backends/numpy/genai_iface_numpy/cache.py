# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache: one NumPy buffer per cache tensor of the signature, and a length per row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import RowLengths, RowStates, stored_positions
from genai_iface.display import Displayed, cache_facts
from genai_iface.types import CacheSpec, UpdateMode
from genai_iface_numpy.buffers import BufferSpec, allocate

__all__ = ["NumpyCache"]


class NumpyCache(Displayed):
    """Implements ``KVCache``, ``SupportsFork``, ``SupportsInspect`` and ``SupportsCheckpoint``.

    Args:
        specs: One per cache tensor, two per layer, the key first.
        rows: The rows' lengths, all 0.
        positions: Positions to reserve now; less than the capacity for a cache that grows.
        spec: Of the model's cache.
        update_mode: The mode to report before the first step.

    Attributes:
        rows: The rows' lengths.
        buffers: In the order of the signature's cache tensors.
        bytes_per_token: Bytes of one token of one row over all layers.
        bytes_per_row: Bytes of the states of one row.
        update_mode: What the last step did; before the first, what is intended.
    """

    def __init__(
        self,
        specs: tuple[BufferSpec, ...],
        rows: RowLengths,
        /,
        *,
        positions: int,
        spec: CacheSpec,
        update_mode: UpdateMode,
    ) -> None:
        self._specs, self._positions = specs, positions
        self.rows = rows
        self.bytes_per_token, self.bytes_per_row = spec.bytes_per_token, spec.bytes_per_row
        self.update_mode = update_mode
        self.buffers = allocate(specs, rows.batch_size, positions)

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return cache_facts(self)

    @property
    def batch_size(self) -> int:
        """B."""
        return self.rows.batch_size

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self.rows.capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 (B,), a copy."""
        return self.rows.lengths

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, states and checkpoints."""
        return sum(buffer.nbytes for buffer in self.buffers) + self.rows.state_nbytes

    @property
    def states(self) -> RowStates | None:
        """The states of the rows, None for a model of attention alone."""
        states = self.rows.states
        return states if isinstance(states, RowStates) else None

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed."""
        return self.rows.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows. What lies beyond a length is never read, so nothing moves."""
        self.rows.rewind_to(lengths)

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        wanted = self.rows.check_reorder(indices)
        # One tensor at a time: the peak is one buffer above the final size.
        self.buffers = [buffer[wanted] for buffer in self.buffers]
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.rows.reset(rows)

    def close(self) -> None:
        """Frees the buffers."""
        self.rows.close()
        self.buffers = []

    def fork(self) -> NumpyCache:
        """An independent copy."""
        twin = NumpyCache.__new__(NumpyCache)
        twin.__dict__.update(self.__dict__, rows=self.rows.fork(), buffers=[buffer.copy() for buffer in self.buffers])
        return twin

    def checkpoint(self, rows: ArrayLike | None = None, /) -> None:
        """Keeps the states of rows at their present lengths."""
        self.rows.checkpoint(rows)

    def checkpoints(self, row: int, /) -> tuple[int, ...]:
        """The lengths of a row that were kept."""
        return self.rows.checkpoints(row)

    def drop(self, row: int, length: int | None = None, /) -> None:
        """Forgets the checkpoint of a row at a length, or all of the row."""
        self.rows.drop(row, length)

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D), oldest first."""
        length = self.rows.check_read(layer, row, len(self._specs) // 2)
        key, value = (
            np.take(spec.by_head(buffer[row]), stored_positions(length, spec.window), axis=1)
            for spec, buffer in list(zip(self._specs, self.buffers, strict=True))[2 * layer : 2 * layer + 2]
        )
        return key, value

    # What the model uses.

    def make_room(self, positions: int, /) -> int:
        """Makes room for so many positions up to the capacity, at least doubling; all content is kept.

        Returns:
            The positions of the linear buffers now; as before if the graph fixes them.

        Raises:
            BackendError: Out of memory; the cache is as it was.
        """
        positions = min(positions, self.capacity)
        is_fixed = any(spec.is_fixed for spec in self._specs if spec.window is None)
        if positions <= self._positions or is_fixed:
            return self._positions
        target, every = max(positions, min(2 * self._positions, self.capacity)), slice(None)
        grown = allocate(self._specs, self.batch_size, target)
        for spec, old, new in zip(self._specs, self.buffers, grown, strict=True):
            used = spec.at(every, 0, self.rows.longest if spec.window is None else spec.window)
            new[used] = old[used]
        self.buffers, self._positions = grown, target
        return target

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per buffer, as ``read`` gives them."""
        for spec, buffer, part in zip(self._specs, self.buffers, tokens, strict=True):
            spec.by_head(buffer[row])[:, stored_positions(length, spec.window)] = part
        self.rows.restore(row, length)
