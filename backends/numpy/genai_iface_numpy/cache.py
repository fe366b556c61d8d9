# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The KV cache: one NumPy buffer per tensor of the signature, and a length per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from genai_iface.backend_kit import check_indices, check_lengths, check_rows
from genai_iface.errors import BackendError, CacheRewindError, InvalidInputError
from genai_iface.types import UpdateMode

__all__ = ["BufferSpec", "NumpyCache"]


@dataclass(frozen=True, slots=True)
class BufferSpec:
    """The buffer of one cache tensor.

    Attributes:
        row_shape: Shape of one row with 0 at the sequence axis: (Hkv, 0, D) or (0, Hkv * D).
        axis: The sequence axis of the whole buffer: 2 or 1.
        dtype: Element type.
        num_heads: Hkv.
        window: Slots of a circular layer; None for a linear one, whose slots follow the capacity.
        is_fixed: Whether the graph names the number of slots, so that it cannot be grown.
    """

    row_shape: tuple[int, ...]
    axis: int
    dtype: DTypeLike
    num_heads: int
    window: int | None
    is_fixed: bool

    def allocate(self, batch_size: int, slots: int) -> NDArray[Any]:
        """Zeros for so many rows and slots; the system commits the memory when it is written."""
        shape = [batch_size, *self.row_shape]
        shape[self.axis] = slots if self.window is None else self.window
        return np.zeros(shape, self.dtype)

    def between(self, buffer: NDArray[Any], begin: int, end: int) -> NDArray[Any]:
        """A view of these slots of all rows."""
        return buffer[:, :, begin:end] if self.axis == 2 else buffer[:, begin:end]


class NumpyCache:
    """Implements ``KVCache``, ``SupportsFork`` and ``SupportsInspect``.

    Args:
        specs: One per cache tensor, two per layer, the key first.
        batch_size: B.
        capacity: Most tokens per row.
        slots: Slots to reserve now; less than the capacity for a cache that grows.
        bytes_per_token: As the model's spec says.
        update_mode: The mode to report before the first step.
    """

    def __init__(
        self,
        specs: tuple[BufferSpec, ...],
        /,
        *,
        batch_size: int,
        capacity: int,
        slots: int,
        bytes_per_token: int,
        update_mode: UpdateMode,
    ) -> None:
        self._specs = specs
        self._capacity = capacity
        self._bytes_per_token = bytes_per_token
        self._lengths = np.zeros(batch_size, np.int64)
        self._update_mode: UpdateMode = update_mode
        self._closed = False
        try:
            self._buffers = [spec.allocate(batch_size, slots) for spec in self._specs]
        except MemoryError as error:
            raise BackendError(
                f"No memory for a cache of {batch_size} rows with {slots} slots",
                remedy="Ask for a smaller batch or capacity.",
            ) from error
        self._slots = slots

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
        wanted = check_lengths(lengths, self._lengths)
        row = self._first_lost_row(wanted)
        if row is not None:
            window = min(spec.window for spec in self._specs if spec.window is not None)
            raise CacheRewindError(
                row,
                int(wanted[row]),
                int(self._lengths[row]),
                f"a circular layer of {window} slots has overwritten tokens that it would need",
            )
        self._lengths = wanted

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        self.check_open()
        wanted = check_indices(indices, self.batch_size)
        # One tensor at a time: the peak is one buffer above the final size.
        self._buffers = [buffer[wanted] for buffer in self._buffers]
        self._lengths = self._lengths[wanted]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.check_open()
        self._lengths[check_rows(rows, self.batch_size)] = 0

    def close(self) -> None:
        """Frees the buffers."""
        self._buffers = []
        self._closed = True

    def fork(self) -> NumpyCache:
        """An independent copy."""
        self.check_open()
        copy = NumpyCache.__new__(NumpyCache)
        copy.__dict__.update(self.__dict__)
        copy._buffers = [buffer.copy() for buffer in self._buffers]
        copy._lengths = self._lengths.copy()
        return copy

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D), oldest first."""
        self.check_open()
        if not 0 <= layer < len(self._specs) // 2 or not 0 <= row < self.batch_size:
            raise InvalidInputError(
                f"layer {layer}, row {row} is not in a cache of {len(self._specs) // 2} layers, {self.batch_size} rows",
                remedy="Count both from 0.",
            )
        key, value = (self._read(index, row) for index in (2 * layer, 2 * layer + 1))
        return key, value

    # What the model uses.

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The buffers' specs; the very object of the model that made the cache."""
        return self._specs

    @property
    def slots(self) -> int:
        """Slots of the linear buffers now."""
        return self._slots

    @property
    def buffers(self) -> list[NDArray[Any]]:
        """The buffers, in the order of the signature's cache tensors."""
        return self._buffers

    def check_open(self) -> None:
        """Raises InvalidInputError if the cache is closed."""
        if self._closed:
            raise InvalidInputError("The cache is closed", remedy="Create another with model.create_cache().")

    def grow_to(self, slots: int, /) -> bool:
        """Makes room for so many slots, at least doubling; all content is kept.

        Returns:
            Whether there is room now; False if the graph fixes the buffers.

        Raises:
            BackendError: Out of memory; the cache is as it was.
        """
        if slots <= self._slots:
            return True
        if any(spec.is_fixed for spec in self._specs if spec.window is None):
            return False
        target = max(slots, min(2 * self._slots, self._capacity))
        used = int(self._lengths.max())
        grown: list[NDArray[Any]] = []
        try:
            for index, spec in enumerate(self._specs):
                buffer = spec.allocate(self.batch_size, target)
                keep = used if spec.window is None else spec.window
                spec.between(buffer, 0, keep)[...] = spec.between(self._buffers[index], 0, keep)
                grown.append(buffer)
        except MemoryError as error:
            raise BackendError(
                f"No memory to grow the cache from {self._slots} to {target} slots",
                remedy="Rewind, reset or close caches, or generate less.",
            ) from error
        self._buffers, self._slots = grown, target
        return True

    def advance(self, counts: NDArray[np.int64], update_mode: UpdateMode, /) -> None:
        """Books a finished step."""
        self._lengths = self._lengths + counts
        self._update_mode = update_mode

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per buffer, as ``read`` gives them."""
        for index, (spec, part) in enumerate(zip(self._specs, tokens, strict=True)):
            order = self._order(spec, length)
            if spec.axis == 2:
                self._buffers[index][row][:, order] = part
            else:
                self._buffers[index][row][order] = part.swapaxes(0, 1).reshape(len(order), spec.row_shape[-1])
        self._lengths[row] = length

    # Internal.

    @staticmethod
    def _order(spec: BufferSpec, length: int) -> NDArray[np.int64]:
        """The slots of a row of this length, oldest token first."""
        order = np.arange(length)
        return order if spec.window is None else order[-spec.window :] % spec.window

    def _first_lost_row(self, wanted: NDArray[np.int64]) -> int | None:
        """The first row for which a circular layer lacks what the shorter row needs."""
        for window in {spec.window for spec in self._specs if spec.window is not None}:
            # Kept are the tokens from length - window on; needed are those from wanted - window on.
            lost = (self._lengths > window) & (wanted < self._lengths) & (wanted > 0)
            if lost.any():
                return int(np.flatnonzero(lost)[0])
        return None

    def _read(self, index: int, row: int) -> NDArray[Any]:
        spec, buffer = self._specs[index], self._buffers[index]
        order = self._order(spec, int(self._lengths[row]))
        content: NDArray[Any] = buffer[row]
        if spec.axis == 2:
            return np.take(content, order, axis=1)
        return (
            np.take(content, order, axis=0)
            .reshape(len(order), spec.num_heads, spec.row_shape[-1] // spec.num_heads)
            .swapaxes(0, 1)
            .copy()
        )
