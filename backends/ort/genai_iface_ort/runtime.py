# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as the rest of the package sees it: its errors, its devices."""

from __future__ import annotations

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from genai_iface.errors import InvalidInputError
from genai_iface.types import Device

__all__ = ["HOST", "ORT_ERRORS", "ORT_TYPES", "DeviceIndex", "device_index", "find_device", "list_devices"]

# A library must not report on its users.
onnxruntime.disable_telemetry_events()

ORT_ERRORS: tuple[type[Exception], ...] = (
    native.EPFail,
    native.EngineError,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotFound,
    native.NotImplemented,
    native.RuntimeException,
    # What the Python layer around it raises.
    RuntimeError,
    ValueError,
    MemoryError,
)
"""Everything that onnxruntime raises when a model or a run fails."""

ORT_TYPES = {"float32": 1, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11, "bfloat16": 16}
"""ONNX element type numbers by name."""

DeviceIndex = tuple[str, int]
"""How onnxruntime names a device: ("cpu", 0), ("cuda", 1)."""

HOST: DeviceIndex = ("cpu", 0)

_CUDA = "CUDAExecutionProvider"


def device_index(device: Device) -> DeviceIndex:
    """The runtime's name of a device."""
    return (device.kind, int(device.identifier.partition(":")[2] or 0))


def list_devices() -> list[Device]:
    """The devices that the installed runtime offers here, the processor first."""
    version = {"onnxruntime": onnxruntime.__version__}
    devices = [Device("cpu", "cpu", {**version, "provider": "CPUExecutionProvider"})]
    if _CUDA in onnxruntime.get_available_providers():
        devices += [
            Device(f"cuda:{index}", "cuda", {**version, "provider": _CUDA}) for index in range(_num_cuda_devices())
        ]
    return devices


def find_device(identifier: str | None) -> Device:
    """The device of that name; None for the processor, "cuda" for "cuda:0".

    Raises:
        InvalidInputError: It is not there.
    """
    devices = list_devices()
    if identifier is None:
        return devices[0]
    wanted = "cuda:0" if identifier == "cuda" else identifier
    for device in devices:
        if device.identifier == wanted:
            if device.kind == "cuda" and hasattr(onnxruntime, "preload_dlls"):
                # The pip packages of CUDA and cuDNN lie where the system's loader does not look.
                onnxruntime.preload_dlls()
            return device
    names = ", ".join(device.identifier for device in devices)
    if wanted.startswith("cuda:") and _CUDA not in onnxruntime.get_available_providers():
        raise InvalidInputError(
            f"The installed onnxruntime {onnxruntime.__version__} has no CUDA, so there is no device {identifier!r}; "
            f"it offers: {names}",
            remedy='Run: pip uninstall onnxruntime && pip install "genai-iface[gpu]" (the two exclude each other).',
        )
    raise InvalidInputError(
        f"There is no device {identifier!r}; onnxruntime offers: {names}", remedy="Use one of these."
    )


def _num_cuda_devices() -> int:
    """The runtime's own count where it keeps one; a build with CUDA but no list of devices counts as one."""
    count = 0
    for entry in onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else ():
        count += entry.ep_name == _CUDA
    return count or 1
