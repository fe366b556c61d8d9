# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A runtime that owns its loop, and ones with a bug each; see ``mutants.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from genai_iface import Capability, GenerationConfig, UnsupportedCapabilityError
from genai_iface.generation import ModelGenerator
from tests.conformance.mutants import MUTANTS, Mutant
from tests.conformance.plain import CAPABILITIES, PlainAdapter, PlainBackend, PlainModel

__all__ = ["PlainRuntime"]


class PlainRuntime(PlainBackend):
    """The plain model behind generators of its own."""

    def __init__(self) -> None:
        super().__init__(PlainModel, {"capabilities": CAPABILITIES | {Capability.GENERATOR}})

    def generator(
        self,
        folder: Any,
        /,
        *,
        config: GenerationConfig,
        capacity: int | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ModelGenerator:
        return ModelGenerator(self.load(folder, device=device, options=options), config, capacity=capacity)


def runtime(bug: str, check: str) -> Callable[[type[PlainRuntime]], type[PlainRuntime]]:
    """Registers a runtime with a bug."""

    def register(kind: type[PlainRuntime]) -> type[PlainRuntime]:
        MUTANTS.append(Mutant(kind.__name__, bug, check, lambda: PlainAdapter(kind(), kind.__name__)))
        return kind

    return register


@runtime("all generators are one", "L4.runtime.independent")
class OneGenerator(PlainRuntime):
    only = None

    def generator(self, folder, /, **arguments):
        self.only = self.only or super().generator(folder, **arguments)
        return self.only


@runtime("a field that it does not know is ignored", "L4.runtime.fields")
class IgnoresBias(PlainRuntime):
    def generator(self, folder, /, *, config, **arguments):
        return super().generator(folder, config=dataclasses.replace(config, logit_bias={}), **arguments)


@runtime("a field is refused without its name", "L4.runtime.fields")
class NamelessRefusal(PlainRuntime):
    def generator(self, folder, /, *, config, **arguments):
        if config.bad_words_ids:
            raise UnsupportedCapabilityError("This cannot be done")
        return super().generator(folder, config=config, **arguments)


@runtime("the capacity is ignored", "L4.runtime.capacity")
class OutgrowsCapacity(PlainRuntime):
    def generator(self, folder, /, *, capacity=None, **arguments):
        return super().generator(folder, **arguments)
