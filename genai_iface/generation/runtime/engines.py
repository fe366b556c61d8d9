# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From a request to the engine that does it, over a backend whose runtime owns the loop."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import BackendError
from genai_iface.generation._request import UNBOUNDED, GenerationRequest
from genai_iface.generation.chat.kept import Ask, KeptGenerator
from genai_iface.generation.engine import Engine
from genai_iface.generation.runtime.loop import RuntimeLoop, refuse_on_runtime
from genai_iface.protocols import Backend, Generator, Model, SupportsGenerator, Tokenizer

__all__ = ["RuntimeEngines"]


class RuntimeEngines:
    """Makes engines that drive the generators of a backend. Implements ``Engines``.

    Args:
        backend: Makes the generators.
        folder: What they run.
        tokenizer: Text from tokens.
        device: An identifier from the backend's ``devices()``; None for its default.
        options: The backend's own settings by name.

    Raises:
        BackendError: The backend declares that it makes generators, and has no method for it.
    """

    # The runtime alone knows the model.
    spec = None

    def __init__(
        self,
        backend: Backend,
        folder: str | PathLike[str],
        tokenizer: Tokenizer,
        *,
        device: str | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        info = backend.info()
        if not isinstance(backend, SupportsGenerator):
            raise BackendError(
                f"The backend {info.name!r} declares the capability {str(Capability.GENERATOR)!r} and has no "
                "generator()",
                remedy="Its author has to implement SupportsGenerator.",
            )
        self._backend = backend
        self._capabilities = info.capabilities
        self._folder = folder
        self._tokenizer = tokenizer
        self._device = device
        self._options = options

    @property
    def capabilities(self) -> frozenset[str]:
        """The backend's."""
        return self._capabilities

    def need_model(self, what: str, capability: str = "") -> Model[Any]:
        """Refuses what needs the steps of a model.

        Raises:
            UnsupportedCapabilityError: Always.
        """
        raise refuse_on_runtime(what, capability)

    def open_engine(self, request: GenerationRequest) -> Engine:
        """The engine of a request; nothing runs before its first step.

        Raises:
            UnsupportedCapabilityError: The request asks for what only a loop of our own can do.
        """
        return RuntimeLoop(request, self._tokenizer, self._start)

    def keep(self, capacity: int | None, ask: Ask) -> KeptGenerator:
        """The generator of a conversation."""
        return KeptGenerator(self._start, ask, self._tokenizer, capacity or UNBOUNDED)

    def close(self) -> None:
        """Does nothing: generators free what they hold when nobody has them any more."""

    def _start(self, prompt: list[int], config: GenerationConfig, capacity: int) -> tuple[Generator, int]:
        generator = self._backend.generator(
            self._folder,
            config=config,
            capacity=None if capacity == UNBOUNDED else capacity,
            device=self._device,
            options=self._options,
        )
        generator.append_tokens(prompt)
        return generator, 0
