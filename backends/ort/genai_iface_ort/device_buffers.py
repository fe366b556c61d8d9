# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The buffer of one cache tensor in the memory of a CUDA device.

Steps never leave the device. Everything else (reorder, fork, read, restore) goes through the
processor's memory, tensor by tensor: simple and exact, and slow for large caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface_ort.buffers import BufferSpec, HostBuffer
from genai_iface_ort.runtime import ORT_ERRORS, DeviceIndex

__all__ = ["DeviceBuffer"]


class DeviceBuffer(HostBuffer):
    """As ``HostBuffer``, elsewhere.

    Args:
        spec: What the tensor looks like.
        rows: B, the rows of the cache.
        num_positions: C, the positions of each row.
        device: Where it lies.

    Raises:
        MemoryError: There is not enough memory for it.
    """

    def __init__(self, spec: BufferSpec, rows: int, num_positions: int, device: DeviceIndex) -> None:
        super().__init__(spec, rows, num_positions)
        self._device = device
        self._on_device = _allocated(self._flat, device)
        self._nbytes = self._flat.nbytes
        # Held only while something reads or changes it.
        self._flat = np.zeros(0, spec.storage)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory on the device."""
        return self._nbytes

    @property
    def row_nbytes(self) -> int:
        """Bytes from one row to the next."""
        return self.num_positions * self.spec.position_nbytes

    @property
    def address(self) -> int:
        """Address of the first element, on the device."""
        return int(self._on_device.data_ptr())

    def resize(self, num_positions: int, used: int) -> None:
        """Changes the number of positions; the memory moves if it must grow."""
        with self._here():
            super().resize(num_positions, used)

    def copy(self, used: int) -> DeviceBuffer:
        """An independent copy."""
        return self.taken(np.arange(self.rows), used)

    def taken(self, indices: NDArray[np.int64], used: int) -> DeviceBuffer:
        """A new buffer whose row i is row ``indices[i]``."""
        with self._here(changes=False):
            chosen = super().taken(indices, used)
        twin = DeviceBuffer(self.spec, 0, self.num_positions, self._device)
        twin.rows = len(indices)
        twin._on_device, twin._nbytes = _allocated(chosen._flat, self._device), chosen._flat.nbytes
        return twin

    def move_rows(
        self, targets: NDArray[np.int64], sources: NDArray[np.int64], rows: int, used: int, scratch: NDArray[np.uint8]
    ) -> None:
        """As on the processor, by way of it."""
        if not len(targets):
            self.rows = rows
            return
        with self._here():
            super().move_rows(targets, sources, rows, used, scratch)

    def read(self, row: int, order: NDArray[np.int64]) -> NDArray[Any]:
        """These positions of one row, as (Hkv, L, D); a copy."""
        with self._here(changes=False):
            return super().read(row, order)

    def write(self, row: int, order: NDArray[np.int64], tokens: NDArray[Any]) -> None:
        """Sets these positions of one row from (Hkv, L, D)."""
        with self._here():
            super().write(row, order, tokens)

    @contextmanager
    def _here(self, *, changes: bool = True) -> Iterator[None]:
        """The content in the processor's memory for a while, and back again."""
        self._flat = np.array(self._on_device.numpy())
        try:
            yield
            if changes and self._flat.nbytes == self._nbytes:
                self._on_device.update_inplace(self._flat)
            elif changes:
                self._on_device, self._nbytes = _allocated(self._flat, self._device), self._flat.nbytes
        finally:
            self._flat = np.zeros(0, self.spec.storage)


def _allocated(flat: NDArray[Any], device: DeviceIndex) -> onnxruntime.OrtValue:
    try:
        return onnxruntime.OrtValue.ortvalue_from_numpy(flat, *device)
    except ORT_ERRORS as error:
        raise MemoryError(f"{flat.nbytes} bytes on {device[0]}:{device[1]}: {error}") from error
