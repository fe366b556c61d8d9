# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend: what it is, where it runs, how it loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.folder import open_folder
from genai_iface.types import BackendInfo, Device
from genai_iface_ort.model import OrtModel, open_model
from genai_iface_ort.options import parse_options
from genai_iface_ort.runtime import find_device, list_devices

__all__ = ["OrtBackend"]

_VERSION = "0.1.0"


class OrtBackend:
    """ONNX Runtime on the processor and on CUDA. Implements ``Backend``."""

    def info(self) -> BackendInfo:
        """What the backend is and can do."""
        return BackendInfo(
            name="ort",
            version=_VERSION,
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            interface_versions=frozenset({1}),
            capabilities=frozenset(Capability) - {Capability.GENERATOR},
            dtypes=frozenset({"float32", "float16", "bfloat16", "int8"}),
        )

    def devices(self) -> Sequence[Device]:
        """The processor, then the CUDA devices that the installed runtime can use."""
        return list_devices()

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> OrtModel[Any]:
        """Loads a model folder. For the options see ``genai_iface_ort.options.LoadOptions``."""
        chosen = find_device(device)
        parsed = parse_options(options, chosen.kind)
        return open_model(open_folder(folder), device=chosen, options=parsed)

    def run_node(self, model: bytes, inputs: Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Runs a serialized model of one node on the processor, for level 1 of the conformance kit."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, dict(inputs)))
