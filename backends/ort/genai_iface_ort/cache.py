# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of the styles that update buffers in place: scatter and shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import RowLengths, RowStates, stored_positions
from genai_iface.display import Displayed, cache_facts
from genai_iface.errors import BackendError
from genai_iface.types import CacheSpec, UpdateMode
from genai_iface_ort.buffers import BufferSpec, HostBuffer

__all__ = ["OrtCache"]


class OrtCache(Displayed):
    """Implements ``KVCache``, ``SupportsFork``, ``SupportsInspect`` and ``SupportsCheckpoint``.

    The buffers have as many positions as the longest row needs, in small steps; the capacity bounds the
    rows' lengths only. A step may ask for a few positions more than the capacity, for padding.

    Args:
        specs: One per cache tensor, two per layer, the key first.
        rows: The rows' lengths, all 0.
        num_positions: Positions to begin with.
        spec: Of the model's cache.
        allocate: Makes a buffer from (spec, rows, num_positions).

    Attributes:
        rows: The rows' lengths.
        buffers: In the order of the signature's cache tensors.
        num_positions: Positions of the linear buffers now.
        bytes_per_token: Bytes of one token of one row over all layers.
        bytes_per_row: Bytes of the states of one row.
        update_mode: What the last step did; before the first, what is intended.
        bound: What the runner binds to the buffers; it is void as soon as they change.
        is_proven: Whether a step has been seen to write into the buffers.
    """

    def __init__(
        self,
        specs: tuple[BufferSpec, ...],
        rows: RowLengths,
        /,
        *,
        num_positions: int,
        spec: CacheSpec,
        allocate: Callable[[BufferSpec, int, int], HostBuffer] = HostBuffer,
    ) -> None:
        self.rows = rows
        self.num_positions = num_positions
        self.bytes_per_token, self.bytes_per_row = spec.bytes_per_token, spec.bytes_per_row
        self.update_mode: UpdateMode = "in_place"
        self.bound: dict[Any, Any] = {}
        self.is_proven = False
        try:
            self.buffers = [allocate(spec, rows.batch_size, spec.num_positions(num_positions)) for spec in specs]
        except MemoryError as error:
            raise BackendError(
                f"No memory for a cache of {rows.batch_size} rows with {num_positions} positions",
                remedy="Ask for a smaller batch or capacity.",
            ) from error

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
        """Makes row i what row ``indices[i]`` was. Rows that stay where they are cost nothing."""
        wanted = self.rows.check_reorder(indices)
        used = self.rows.longest
        try:
            if len(wanted) > self.batch_size:
                self.buffers = [buffer.taken(wanted, used) for buffer in self.buffers]
            else:
                targets = np.flatnonzero(wanted != np.arange(len(wanted)))
                # All memory that the moves need, before the first of them.
                sizes = (min(used, buffer.num_positions) * buffer.spec.position_nbytes for buffer in self.buffers)
                most = max(sizes, default=0)
                scratch = np.empty(len(targets) * most, np.uint8)
                for buffer in self.buffers:
                    buffer.move_rows(targets, wanted[targets], len(wanted), used, scratch)
        except MemoryError as error:
            raise BackendError(
                f"No memory to make {len(wanted)} rows of {self.batch_size}", remedy="Close other caches first."
            ) from error
        if len(wanted) != self.batch_size:
            self.bound.clear()
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.rows.reset(rows)

    def close(self) -> None:
        """Frees the buffers."""
        self.rows.close()
        self.bound.clear()
        self.buffers = []

    def fork(self) -> OrtCache:
        """An independent copy.

        Raises:
            BackendError: Out of memory.
        """
        rows, twin = self.rows.fork(), OrtCache.__new__(OrtCache)
        try:
            buffers = [buffer.copy(rows.longest) for buffer in self.buffers]
        except MemoryError as error:
            raise BackendError("No memory for a copy of the cache", remedy="Close other caches first.") from error
        twin.__dict__.update(self.__dict__, rows=rows, buffers=buffers, bound={})
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
        length = self.rows.check_read(layer, row, len(self.buffers) // 2)
        key, value = (
            buffer.spec.typed(buffer.read(row, stored_positions(length, buffer.spec.window)))
            for buffer in self.buffers[2 * layer : 2 * layer + 2]
        )
        return key, value

    # What the model uses.

    def resize(self, num_positions: int, /) -> None:
        """Gives the linear buffers so many positions, unless the graph fixes them; all content is kept.

        One buffer after the other, so that the peak is one buffer above the final size.

        Raises:
            BackendError: Out of memory; the cache is as it was.
        """
        linear = [buffer for buffer in self.buffers if buffer.spec.window is None]
        if any(buffer.spec.fixed is not None for buffer in linear):
            return
        used = self.rows.longest
        self.bound.clear()
        done: list[HostBuffer] = []
        try:
            for buffer in linear:
                buffer.resize(num_positions, used)
                done.append(buffer)
        except MemoryError as error:
            # The way back fits into the memory that is there.
            for buffer in done:
                buffer.resize(self.num_positions, used)
            raise BackendError(
                f"No memory to grow the cache from {self.num_positions} to {num_positions} positions",
                remedy="Rewind, reset or close caches, or generate less.",
            ) from error
        self.num_positions = num_positions

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per buffer, as ``read`` gives them."""
        for buffer, part in zip(self.buffers, tokens, strict=True):
            order = stored_positions(length, buffer.spec.window)
            buffer.write(row, order, part.view(buffer.spec.storage))
        self.rows.restore(row, length)
