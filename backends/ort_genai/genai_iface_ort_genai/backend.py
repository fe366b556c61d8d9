# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend: what it is, where it runs, and its generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import onnxruntime_genai

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.types import BackendInfo, Device
from genai_iface_ort_genai.generator import OrtGenAIGenerator
from genai_iface_ort_genai.model import LoadedModel, load_folder
from genai_iface_ort_genai.search import search_options

__all__ = ["OrtGenAIBackend"]

_VERSION = "0.1.0"
_CPU = Device("cpu", "cpu")


class OrtGenAIBackend:
    """Runs folders with a genai_config.json on the processor. Implements ``Backend`` and ``SupportsGenerator``."""

    def __init__(self) -> None:
        self._models: dict[Path, LoadedModel] = {}

    def info(self) -> BackendInfo:
        """What the backend is and can do."""
        return BackendInfo(
            name="ort-genai",
            version=_VERSION,
            runtime="onnxruntime-genai",
            runtime_version=onnxruntime_genai.__version__,
            interface_versions=frozenset({1}),
            capabilities=frozenset({Capability.GENERATOR}),
            dtypes=frozenset({"float32", "float16"}),
        )

    def devices(self) -> Sequence[Device]:
        """The processor."""
        return [_CPU]

    def golden_form(self) -> str:
        """The form of the conformance kit's folders that it reads."""
        return "ort-genai"

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
            "ONNX Runtime GenAI owns the loop: it has generators and no model whose steps one could run",
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
    ) -> OrtGenAIGenerator:
        """Makes a generator. See ``SupportsGenerator.generator``; there are no options."""
        if device not in (None, _CPU.identifier):
            raise InvalidInputError(
                f"The ort-genai backend has no device {device!r}", remedy='Use "cpu", or another backend.'
            )
        if options:
            raise InvalidInputError(
                f"The ort-genai backend has no option {sorted(options)[0]!r}",
                remedy="Write it into genai_config.json, which the runtime reads.",
            )
        path = Path(folder)
        if path not in self._models:
            self._models[path] = load_folder(path)
        model = self._models[path]
        return OrtGenAIGenerator(model, search_options(config, model, capacity), config)
