# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache of the styles that update buffers in place: scatter and shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import check_indices, check_lengths, check_rows
from genai_iface.errors import BackendError, CacheRewindError, InvalidInputError
from genai_iface.types import UpdateMode
from genai_iface_ort.buffers import BufferSpec, HostBuffer

__all__ = ["OrtCache"]


class OrtCache:
    """Implements ``KVCache``, ``SupportsFork`` and ``SupportsInspect``.

    The buffers have as many positions as the longest row needs, in small steps; the capacity bounds the
    rows' lengths only. A step may ask for a few positions more than the capacity, for padding.

    Args:
        specs: One per cache tensor, two per layer, the key first.
        batch_size: B.
        capacity: Most tokens per row.
        num_positions: Positions to begin with.
        bytes_per_token: As the model's spec says.
        allocate: Makes a buffer from (spec, rows, num_positions).
    """

    def __init__(
        self,
        specs: tuple[BufferSpec, ...],
        /,
        *,
        batch_size: int,
        capacity: int,
        num_positions: int,
        bytes_per_token: int,
        allocate: Callable[[BufferSpec, int, int], HostBuffer] = HostBuffer,
    ) -> None:
        self._specs = specs
        self._capacity = capacity
        self._bytes_per_token = bytes_per_token
        self._lengths = np.zeros(batch_size, np.int64)
        self._update_mode: UpdateMode = "in_place"
        self._closed = False
        self._num_positions = num_positions
        try:
            self._buffers = [allocate(spec, batch_size, spec.num_positions(num_positions)) for spec in specs]
        except MemoryError as error:
            raise BackendError(
                f"No memory for a cache of {batch_size} rows with {num_positions} positions",
                remedy="Ask for a smaller batch or capacity.",
            ) from error
        # What the model binds to the buffers; it is void as soon as they change.
        self.bound: dict[Any, Any] = {}
        self.is_proven = False

    # What the protocol asks for.

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self._capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 (B,), a copy."""
        return self._lengths.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token of one row over all layers."""
        return self._bytes_per_token

    @property
    def update_mode(self) -> UpdateMode:
        """What the last step did; before the first, what is intended."""
        return self._update_mode

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed."""
        return self._first_lost_row(check_lengths(lengths, self._lengths)) is None

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows. What lies beyond a length is never read, so nothing moves."""
        self.check_open()
        wanted = check_lengths(lengths, self._lengths)
        row = self._first_lost_row(wanted)
        if row is not None:
            window = min(spec.window for spec in self._specs if spec.window is not None)
            raise CacheRewindError(
                row,
                int(wanted[row]),
                int(self._lengths[row]),
                f"a circular layer of {window} positions has overwritten tokens that it would need",
            )
        self._lengths = wanted

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was. Rows that stay where they are cost nothing."""
        self.check_open()
        wanted = check_indices(indices, self.batch_size)
        used = int(self._lengths.max())
        try:
            if len(wanted) > self.batch_size:
                self._buffers = [buffer.taken(wanted, self._used(buffer, used)) for buffer in self._buffers]
            else:
                targets = np.flatnonzero(wanted != np.arange(len(wanted)))
                # All memory that the moves need, before the first of them.
                sizes = [self._used(buffer, used) * buffer.spec.position_nbytes for buffer in self._buffers]
                scratch = np.empty(len(targets) * max(sizes), np.uint8)
                for buffer in self._buffers:
                    buffer.move_rows(targets, wanted[targets], len(wanted), self._used(buffer, used), scratch)
        except MemoryError as error:
            raise BackendError(
                f"No memory to make {len(wanted)} rows of {self.batch_size}", remedy="Close other caches first."
            ) from error
        if len(wanted) != self.batch_size:
            self.bound.clear()
        self._lengths = self._lengths[wanted]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.check_open()
        self._lengths[check_rows(rows, self.batch_size)] = 0

    def close(self) -> None:
        """Frees the buffers."""
        self.bound.clear()
        self._buffers = []
        self._closed = True

    def fork(self) -> OrtCache:
        """An independent copy.

        Raises:
            BackendError: Out of memory.
        """
        self.check_open()
        used = int(self._lengths.max())
        twin = OrtCache.__new__(OrtCache)
        twin.__dict__.update(self.__dict__)
        twin.bound = {}
        twin._lengths = self._lengths.copy()
        try:
            twin._buffers = [buffer.copy(self._used(buffer, used)) for buffer in self._buffers]
        except MemoryError as error:
            raise BackendError("No memory for a copy of the cache", remedy="Close other caches first.") from error
        return twin

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D), oldest first."""
        self.check_open()
        if not 0 <= layer < len(self._specs) // 2 or not 0 <= row < self.batch_size:
            raise InvalidInputError(
                f"layer {layer}, row {row} is not in a cache of {len(self._specs) // 2} layers, {self.batch_size} rows",
                remedy="Count both from 0.",
            )
        length = int(self._lengths[row])
        key, value = (
            buffer.read(row, self._order(buffer, length)) for buffer in self._buffers[2 * layer : 2 * layer + 2]
        )
        if self._specs[2 * layer].dtype == "bfloat16":
            return key.view(ml_dtypes.bfloat16), value.view(ml_dtypes.bfloat16)
        return key, value

    # What the model uses.

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The buffers' specs; the very object of the model that made the cache."""
        return self._specs

    @property
    def num_positions(self) -> int:
        """Positions of the linear buffers now."""
        return self._num_positions

    @property
    def buffers(self) -> list[HostBuffer]:
        """The buffers, in the order of the signature's cache tensors."""
        return self._buffers

    def check_open(self) -> None:
        """Raises InvalidInputError if the cache is closed."""
        if self._closed:
            raise InvalidInputError("The cache is closed", remedy="Create another with model.create_cache().")

    def resize(self, num_positions: int, /) -> bool:
        """Gives the linear buffers so many positions; all content is kept.

        One buffer after the other, so that the peak is one buffer above the final size.

        Returns:
            Whether they have them now; False if the graph fixes the buffers.

        Raises:
            BackendError: Out of memory; the cache is as it was.
        """
        if num_positions == self._num_positions:
            return True
        if any(spec.fixed is not None for spec in self._specs if spec.window is None):
            return False
        used = int(self._lengths.max())
        self.bound.clear()
        done: list[HostBuffer] = []
        try:
            for buffer in self._buffers:
                if buffer.spec.window is None:
                    buffer.resize(num_positions, used)
                    done.append(buffer)
        except MemoryError as error:
            # The way back fits into the memory that is there.
            for buffer in done:
                buffer.resize(self._num_positions, used)
            raise BackendError(
                f"No memory to grow the cache from {self._num_positions} to {num_positions} positions",
                remedy="Rewind, reset or close caches, or generate less.",
            ) from error
        self._num_positions = num_positions
        return True

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per buffer, as ``read`` gives them."""
        for buffer, part in zip(self._buffers, tokens, strict=True):
            buffer.write(row, self._order(buffer, length), part.view(buffer.spec.storage))
        self._lengths[row] = length

    def advance(self, counts: NDArray[np.int64], update_mode: UpdateMode, /) -> None:
        """Books a finished step."""
        self._lengths = self._lengths + counts
        self._update_mode = update_mode

    # Internal.

    def advance_all(self) -> None:
        """Books a finished step of one token for every row."""
        self._lengths += 1

    def _used(self, buffer: HostBuffer, used: int) -> int:
        return min(used, buffer.num_positions)

    def _order(self, buffer: HostBuffer, length: int) -> NDArray[np.int64]:
        """The positions of a row of this length, oldest token first."""
        window = buffer.spec.window
        if window is None or length <= window:
            return np.arange(length)
        return np.arange(length - window, length) % window

    def _first_lost_row(self, wanted: NDArray[np.int64]) -> int | None:
        """The first row for which a circular layer lacks what the shorter row needs."""
        for window in {spec.window for spec in self._specs if spec.window is not None}:
            # Kept are the tokens from length - window on; needed are those from wanted - window on.
            lost = (self._lengths > window) & (wanted < self._lengths) & (wanted > 0)
            if lost.any():
                return int(np.flatnonzero(lost)[0])
        return None
