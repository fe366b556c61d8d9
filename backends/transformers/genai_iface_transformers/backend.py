# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend: what it is, where it runs, how it loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
import transformers

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError
from genai_iface.types import BackendInfo, Device
from genai_iface_transformers.checkpoint import load_checkpoint
from genai_iface_transformers.model import CAPABILITIES, TransformersModel

__all__ = ["TransformersBackend"]

_VERSION = "0.1.0"
_WAYS_BACK = {Capability.REWIND, Capability.REWIND_STEP, Capability.CHECKPOINT, Capability.STATE}
_CPU = Device("cpu", "cpu", {"torch": torch.__version__})


class TransformersBackend:
    """Runs the folder's Hugging Face checkpoint, in float32 on the processor. Implements ``Backend``.

    It reads config.json and model.safetensors; there need be no model.onnx.
    """

    def info(self) -> BackendInfo:
        """What the backend is and can do."""
        return BackendInfo(
            name="transformers",
            version=_VERSION,
            runtime="transformers",
            runtime_version=transformers.__version__,
            interface_versions=frozenset({1}),
            capabilities=CAPABILITIES | _WAYS_BACK,
            dtypes=frozenset({"float32"}),
        )

    def devices(self) -> Sequence[Device]:
        """The processor."""
        return [_CPU]

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> TransformersModel:
        """Loads the checkpoint of a model folder. There are no options."""
        if device not in (None, _CPU.identifier):
            raise InvalidInputError(
                f"The transformers backend has no device {device!r}", remedy='Use "cpu", or another backend.'
            )
        if options:
            raise InvalidInputError(
                f"The transformers backend has no option {sorted(options)[0]!r}", remedy="It takes no options."
            )
        return TransformersModel(load_checkpoint(folder), device=_CPU)
