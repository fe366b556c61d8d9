# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Fixed places in memory for small inputs and for logits: on the processor, or on a CUDA device with a twin here."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface.types import Device

__all__ = ["HOST", "DeviceIndex", "Place", "device_index"]

DeviceIndex = tuple[str, int]
"""How onnxruntime names a device: ("cpu", 0), ("cuda", 1)."""

HOST: DeviceIndex = ("cpu", 0)


def device_index(device: Device) -> DeviceIndex:
    """The runtime's name of a device."""
    return (device.kind, int(device.identifier.partition(":")[2] or 0))


class Place:
    """An array whose elements a graph reads or writes, at an address that never changes.

    Args:
        array: The array. On the processor it is the place itself, elsewhere its copy here.
        device: Where the place is.
    """

    def __init__(self, array: NDArray[Any], device: DeviceIndex) -> None:
        self.array = array
        self.device = device
        self._twin: onnxruntime.OrtValue | None = None
        if device != HOST:
            self._twin = onnxruntime.OrtValue.ortvalue_from_numpy(array, *device)

    @property
    def address(self) -> int:
        """Where the elements are."""
        return int(self.array.ctypes.data) if self._twin is None else int(self._twin.data_ptr())

    def send(self) -> None:
        """Makes the device see what was written to the array."""
        if self._twin is not None:
            self._twin.update_inplace(np.ascontiguousarray(self.array))

    def fetched(self) -> NDArray[Any]:
        """What the device wrote, in an array that nobody else has; on the processor, the array itself."""
        return self.array if self._twin is None else self._twin.numpy()
