# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend: what it is, where it runs, and its generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import openvino_genai

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.types import BackendInfo, Device
from genai_iface_openvino_genai.generator import OpenVINOGenAIGenerator
from genai_iface_openvino_genai.model import PreparedFolder, prepare

__all__ = ["OpenVINOGenAIBackend"]

_VERSION = "0.1.0"
_CPU = Device("cpu", "cpu")


class OpenVINOGenAIBackend:
    """Runs OpenVINO's folders, and graphs with growing tensors, on the processor.

    Implements ``Backend`` and ``SupportsGenerator``.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, PreparedFolder] = {}

    def info(self) -> BackendInfo:
        """What the backend is and can do."""
        return BackendInfo(
            name="openvino-genai",
            version=_VERSION,
            runtime="openvino-genai",
            runtime_version=openvino_genai.__version__,
            interface_versions=frozenset({1}),
            capabilities=frozenset({Capability.GENERATOR}),
            dtypes=frozenset({"float32"}),
        )

    def devices(self) -> Sequence[Device]:
        """The processor."""
        return [_CPU]

    def golden_form(self) -> str:
        """The form of the conformance kit's folders that it reads."""
        return "concat"

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> NoReturn:
        """Refuses: the runtime shows no steps.

        Raises:
            UnsupportedCapabilityError: Always.
        """
        raise UnsupportedCapabilityError(
            "OpenVINO GenAI owns the loop: it has generators and no model whose steps one could run",
            capability=str(Capability.GENERATOR),
            remedy="Use a pipeline, generator(), or a backend that runs steps, such as 'ort'.",
        )

    def generator(
        self,
        folder: str | PathLike[str],
        /,
        *,
        config: GenerationConfig,
        capacity: int | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> OpenVINOGenAIGenerator:
        """Makes a generator. See ``SupportsGenerator.generator``; there are no options."""
        if device not in (None, _CPU.identifier):
            raise InvalidInputError(
                f"The openvino-genai backend has no device {device!r}", remedy='Use "cpu", or another backend.'
            )
        if options:
            raise InvalidInputError(
                f"The openvino-genai backend has no option {sorted(options)[0]!r}",
                remedy="It takes no options.",
            )
        path = Path(folder)
        if path not in self._folders:
            self._folders[path] = prepare(path)
        return OpenVINOGenAIGenerator(self._folders[path], config, capacity)
