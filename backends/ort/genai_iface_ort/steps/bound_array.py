# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Small inputs at fixed addresses: on the processor, or on a CUDA device with a copy here."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface_ort.runtime import HOST, DeviceIndex

__all__ = ["BoundArray"]


class BoundArray:
    """An array whose elements a graph reads or writes, at an address that never changes.

    Args:
        array: On the processor the graph uses this array itself, elsewhere a copy of it.
        device: Where the graph expects the elements.
    """

    def __init__(self, array: NDArray[Any], device: DeviceIndex) -> None:
        self.array = array
        self._on_device: onnxruntime.OrtValue | None = None
        if device != HOST:
            self._on_device = onnxruntime.OrtValue.ortvalue_from_numpy(array, *device)

    @property
    def address(self) -> int:
        """Where the graph finds the elements."""
        return int(self.array.ctypes.data) if self._on_device is None else int(self._on_device.data_ptr())

    def send(self) -> None:
        """Makes the device see what was written to the array."""
        if self._on_device is not None:
            self._on_device.update_inplace(np.ascontiguousarray(self.array))

    def fetched(self) -> NDArray[Any]:
        """What the device wrote, in a new array; on the processor, the array itself."""
        return self.array if self._on_device is None else self._on_device.numpy()
