# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From a request to the engine that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError
from genai_iface.generation._memory import check_memory_limit, check_request_fits, check_rows_fit
from genai_iface.generation._request import GenerationRequest, context_of
from genai_iface.generation.beam.search import BeamSearch
from genai_iface.generation.chat.kept import Ask, KeptRows
from genai_iface.generation.chat.session import Kept
from genai_iface.generation.engine import Engine
from genai_iface.generation.generator import ModelGenerator
from genai_iface.generation.hooks import PrefillHook
from genai_iface.generation.rows.cached_rows import CachedRows
from genai_iface.protocols import Model, Tokenizer
from genai_iface.types import ModelSpec

__all__ = ["Engines", "ModelEngines", "StepSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """How a pipeline runs the steps of a model.

    Attributes:
        prefill_chunk_size: Most prompt tokens per sequence in one step.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many.
        memory_limit: Most bytes of a cache; None for what the system has available, where that is known.

    Raises:
        InvalidInputError: The limit is negative.
    """

    prefill_chunk_size: int
    on_prefill: PrefillHook | None
    memory_limit: int | None

    def __post_init__(self) -> None:
        check_memory_limit(self.memory_limit)


class Engines(Protocol):
    """Makes the engines of a pipeline: over the steps of a model, or over a runtime that owns the loop."""

    @property
    def spec(self) -> ModelSpec | None:
        """What the model is; None if only the runtime knows."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What the model or the runtime can do."""
        ...

    def need_model(self, what: str, capability: str = "") -> Model[Any]:
        """The model, for a call that needs its steps.

        Raises:
            UnsupportedCapabilityError: There is none. The message names the call.
        """
        ...

    def open_engine(self, request: GenerationRequest) -> Engine:
        """The engine of a request, which holds its prompts; nothing runs before its first step.

        Raises:
            GenAIError: The request asks for what this model or runtime cannot do.
        """
        ...

    def keep(self, capacity: int | None, ask: Ask) -> Kept:
        """What a conversation keeps from turn to turn.

        Args:
            capacity: Most tokens of the conversation; None for the model's context.
            ask: Checks a turn.

        Raises:
            GenAIError: There is no room for it.
        """
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


class ModelEngines:
    """Makes engines that run the steps of a model. Implements ``Engines``.

    Args:
        model: Runs the steps.
        tokenizer: Text from tokens.
        settings: How they run.
    """

    def __init__(self, model: Model[Any], tokenizer: Tokenizer, settings: StepSettings) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings

    @property
    def spec(self) -> ModelSpec:
        """The model's."""
        return self._model.spec

    @property
    def capabilities(self) -> frozenset[str]:
        """The model's."""
        return self._model.capabilities

    def need_model(self, what: str, capability: str = "") -> Model[Any]:
        """The model, for what needs its steps."""
        return self._model

    def open_engine(self, request: GenerationRequest) -> Engine:
        """The engine of a request, which holds its prompts; nothing runs before its first step.

        Raises:
            InsufficientMemoryError: Its cache would need more memory than there is.
            GenAIError: The request does not fit the model.
        """
        check_request_fits(self._model, request, self._settings.memory_limit)
        if request.configs[0].num_beams > 1:
            return BeamSearch(
                self._model,
                request,
                self._tokenizer,
                prefill_chunk_size=self._settings.prefill_chunk_size,
                on_prefill=self._settings.on_prefill,
            )
        return self._generator(request, None)

    def keep(self, capacity: int | None, ask: Ask) -> KeptRows:
        """The cache of a conversation.

        Raises:
            InvalidInputError: Nothing bounds it.
            InsufficientMemoryError: It would need more memory than there is.
        """
        most = capacity or context_of(self.spec)
        if most is None:
            raise InvalidInputError("The model has no context length", remedy="Give capacity.")
        if Capability.GROWTH not in self.capabilities:
            check_rows_fit(self._model, 1, most, self._settings.memory_limit)
        rows = CachedRows(self._model, 1, most, self._settings.prefill_chunk_size, keeps_ends=True)
        return KeptRows(rows, ask, self._generator)

    def close(self) -> None:
        """Frees the model."""
        self._model.close()

    def _generator(self, request: GenerationRequest, rows: CachedRows[Any] | None) -> ModelGenerator[Any]:
        generator = ModelGenerator(
            self._model,
            [config for _, config in request.sequences],
            num_sequences=request.num_sequences,
            capacity=request.capacity,
            tokenizer=self._tokenizer,
            continues_text=request.continues_text or request.configs[0].echo,
            hooks=request.hooks,
            drops_finished=True,
            rows=rows,
            prefill_chunk_size=self._settings.prefill_chunk_size,
            on_prefill=self._settings.on_prefill,
            started=request.started,
        )
        generator.append_tokens([prompt for prompt, _ in request.sequences])
        return generator
