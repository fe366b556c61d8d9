# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a conversation keeps from turn to turn: the rows of a cache, or a generator of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from genai_iface.config import GenerationConfig
from genai_iface.errors import CacheRewindError, InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation._request import GenerationRequest
from genai_iface.generation.engine import Engine
from genai_iface.generation.hooks import GenerationHooks
from genai_iface.generation.rows.cached_rows import CachedRows
from genai_iface.generation.runtime.loop import GeneratorSource, RuntimeLoop
from genai_iface.protocols import Generator, Tokenizer

__all__ = ["Ask", "KeptGenerator", "KeptRows"]

Ask: TypeAlias = Callable[[list[int], GenerationHooks, Mapping[str, Any]], GenerationRequest]
"""Checks a turn: the tokens of the conversation, hooks and overrides."""


class KeptRows:
    """The cache of a conversation over a model. Implements ``Kept``.

    Args:
        rows: The cache of the conversation, one row.
        ask: Checks a turn.
        open_engine: Makes an engine that runs in that cache.
    """

    def __init__(
        self, rows: CachedRows[Any], ask: Ask, open_engine: Callable[[GenerationRequest, CachedRows[Any]], Engine]
    ) -> None:
        self._rows = rows
        self._ask = ask
        self._open_engine = open_engine

    def open_answer(self, token_ids: list[int], hooks: GenerationHooks, overrides: Mapping[str, Any], /) -> Engine:
        """The engine that answers a conversation, given as tokens. It leaves the cache open.

        Raises:
            InvalidInputError: More than one plain answer is asked for.
            CacheOverflowError: The conversation is longer than the cache.
        """
        return self._open_engine(_as_answer(self._ask(token_ids, hooks, overrides)), self._rows)

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        self._rows.close()


class KeptGenerator:
    """The generator of a conversation on a runtime that owns the loop. Implements ``Kept``.

    It is rewound to what a turn shares with the turn before, as long as the configuration stays the same.

    Args:
        source: What makes generators of the runtime.
        ask: Checks a turn.
        tokenizer: Text from tokens.
        capacity: Most tokens of the conversation.
    """

    def __init__(self, source: GeneratorSource, ask: Ask, tokenizer: Tokenizer, capacity: int) -> None:
        self._source = source
        self._ask = ask
        self._tokenizer = tokenizer
        self._capacity = capacity
        self._loop: RuntimeLoop | None = None
        self._generator: Generator | None = None
        self._config: GenerationConfig | None = None

    def open_answer(self, token_ids: list[int], hooks: GenerationHooks, overrides: Mapping[str, Any], /) -> Engine:
        """The engine that answers a conversation, given as tokens.

        Raises:
            InvalidInputError: More than one plain answer is asked for.
        """
        if self._loop is not None and not self._loop.is_sound:
            # What a runtime keeps of a generation that was cancelled or failed is its own business.
            self._generator = None
        request = _as_answer(self._ask(token_ids, hooks, overrides))
        self._loop = RuntimeLoop(request, self._tokenizer, self._continue)
        return self._loop

    def close(self) -> None:
        """Lets the generator go. A second call does nothing."""
        self._generator = None

    def _continue(self, prompt: list[int], config: GenerationConfig, _: int) -> tuple[Generator, int]:
        kept, self._generator = self._generator, None
        num_reused = 0
        if kept is not None and config == self._config:
            num_reused = _go_back(kept, prompt)
        if kept is None or not num_reused:
            kept, num_reused = self._source(prompt, config, self._capacity)
        self._generator, self._config = kept, config
        return kept, num_reused


def _go_back(generator: Generator, prompt: list[int]) -> int:
    """Rewinds a generator to what its sequence shares with a prompt and appends the rest.

    Returns:
        How many tokens it kept; 0 if it is of no use.
    """
    known = generator.get_sequence(0)
    most = min(len(known), len(prompt) - 1)
    common = next((at for at in range(most) if known[at] != prompt[at]), most)
    if not common:
        return 0
    try:
        generator.rewind_to(common)
    except CacheRewindError:
        return 0
    generator.append_tokens(prompt[common:])
    return common


def _as_answer(request: GenerationRequest) -> GenerationRequest:
    """A turn's request: its text begins anew."""
    (config,) = request.configs
    if config.num_return_sequences > 1 or config.num_beams > 1 or config.echo:
        raise InvalidInputError(
            "A conversation has one answer at a time, without beams and echo", remedy="Leave these fields alone."
        )
    if request.hooks.prefix is not None:
        raise UnsupportedCapabilityError(
            "A conversation cannot have prefix: it keeps its own cache", remedy="Use generate() for it."
        )
    return replace(request, continues_text=False)
