# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beam search over any model that can reorder its cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation._request import GenerationRequest
from genai_iface.generation._stopwatch import Stopwatch
from genai_iface.generation._token_ids import as_ids
from genai_iface.generation.beam.prompt_search import Hypothesis, PromptSearch
from genai_iface.generation.rows.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.protocols import Model, Tokenizer
from genai_iface.results import Chunk, FinishReason, PerfMetrics

__all__ = ["BeamSearch", "Hypothesis"]


class BeamSearch:
    """Searches the best continuations of several prompts at once; the prompts do not depend on each other.

    Implements ``Engine``; all chunks come at the end, one for each sequence. A batch holds the beams that go on and
    nothing else: ``KVCache.reorder`` makes it after each step.

    Args:
        model: The model; it needs the capabilities "batch" and "reorder".
        request: The prompts, and how to continue them.
        tokenizer: Makes text, also for stop strings and criteria; None for none.
        prefill_chunk_size: Most tokens per sequence in one step.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many.

    Raises:
        UnsupportedCapabilityError: The model lacks a capability.
        InvalidInputError: There are more beams than half of the vocabulary.
    """

    def __init__(
        self,
        model: Model[Any],
        request: GenerationRequest,
        tokenizer: Tokenizer | None = None,
        *,
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: Callable[[int, int], None] | None = None,
    ) -> None:
        _check_can_search(model, request)
        self._model = model
        self._capacity = request.capacity
        self._chunk_size = prefill_chunk_size
        self._on_prefill = on_prefill
        self._stopwatch = Stopwatch(request.started)
        self._is_cancelled = False
        self._has_given = False
        self._cache_bytes = 0
        self._searches = [
            PromptSearch(
                config,
                as_ids(prompt, model.spec.vocab_size),
                hooks=request.hooks,
                vocab_size=model.spec.vocab_size,
                capacity=request.capacity,
                tokenizer=tokenizer,
                continues_text=request.continues_text,
            )
            for prompt, config in zip(request.prompts, request.configs, strict=True)
        ]
        self._num_prompt_tokens = sum(map(len, request.prompts))
        # Without ragged steps each prompt is searched alone: its beams are equally long at any time.
        together = Capability.RAGGED in model.capabilities and not model.spec.cache.is_circular
        singles = [[search] for search in self._searches]
        self._waiting = [self._searches] if together else singles
        self._batch: _Batch | None = None

    @property
    def metrics(self) -> PerfMetrics:
        """Measurements of this search; every beam's tokens count."""
        return self._stopwatch.metrics(num_prompt_tokens=self._num_prompt_tokens, cache_bytes=self._cache_bytes)

    @property
    def has_ended(self) -> bool:
        """Whether the results were given."""
        return self._has_given

    def hypotheses(self, index: int, /) -> list[Hypothesis]:
        """The best continuations of a prompt, best first: ``num_return_sequences`` of them."""
        return self._searches[index].results()

    def step(self) -> list[Chunk]:
        """Takes one step of the search; gives one chunk for each sequence once all prompts are done."""
        started = time.perf_counter()
        batch = self._next_batch()
        if batch is None:
            self._has_given = True
            return self._chunks()
        num_tokens = batch.step(self._is_interrupted, self._on_prefill)
        self._cache_bytes = max(self._cache_bytes, batch.rows.nbytes)
        self._stopwatch.add(time.perf_counter() - started, num_tokens)
        reason: FinishReason = "cancelled" if self._is_cancelled else "time"
        for search in self._searches:
            if self._is_cancelled or self._is_late(search):
                search.interrupt(batch.sequences, reason)
        if all(search.is_done for search in batch.searches):
            batch.rows.close()
            self._batch = None
        return []

    def cancel(self) -> None:
        """Ends the search with what there is, reason "cancelled". May be called from any thread."""
        self._is_cancelled = True

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        if self._batch is not None:
            self._batch.rows.close()
            self._batch = None
            self._waiting = []

    def _next_batch(self) -> _Batch | None:
        """The batch whose turn it is; None once all prompts are done."""
        if self._batch is None:
            self._waiting = [group for group in self._waiting if any(not one.is_done for one in group)]
            if self._waiting:
                group = [search for search in self._waiting.pop(0) if not search.is_done]
                self._batch = _Batch(self._model, group, self._capacity, self._chunk_size)
        return self._batch

    def _chunks(self) -> list[Chunk]:
        found = [chunk for search in self._searches for chunk in search.chunks()]
        return [replace(chunk, index=index) for index, chunk in enumerate(found)]

    def _is_late(self, search: PromptSearch) -> bool:
        limit = search.config.max_time
        return limit is not None and self._stopwatch.elapsed >= limit

    def _is_interrupted(self) -> bool:
        return self._is_cancelled or any(self._is_late(one) for one in self._searches if not one.is_done)


def _check_can_search(model: Model[Any], request: GenerationRequest) -> None:
    for capability in (Capability.BATCH, Capability.REORDER):
        if capability not in model.capabilities:
            raise UnsupportedCapabilityError(
                f"Beam search needs the capability {str(capability)!r}, which this model does not declare",
                capability=capability,
                remedy="Set num_beams=1.",
            )
    vocab_size = model.spec.vocab_size
    for config in request.configs:
        if 2 * config.num_beams > vocab_size:
            raise InvalidInputError(
                f"num_beams={config.num_beams} is more than half of the {vocab_size} tokens",
                remedy=f"Use at most {vocab_size // 2}.",
            )


class _Batch:
    """The prompts that share a cache, and the rows of all their beams."""

    def __init__(self, model: Model[Any], searches: list[PromptSearch], capacity: int, chunk_size: int) -> None:
        self.searches = searches
        self.sequences: list[TokenSequence] = []
        for row, search in enumerate(searches):
            sequence = TokenSequence()
            sequence.append_input(search.prompt)
            self.sequences.append(sequence)
            search.begin(row)
        self.rows = CachedRows(model, len(searches), capacity, chunk_size)

    def step(self, is_interrupted: Callable[[], bool], on_prefill: Callable[[int, int], None] | None) -> int:
        """Runs what is pending and chooses; returns the tokens that were chosen."""
        active = [True] * len(self.sequences)
        if not self.rows.run(self.sequences, active, is_interrupted=is_interrupted, on_progress=on_prefill):
            return 0
        grown: list[TokenSequence] = []
        rows: list[int] = []
        for search in self.searches:
            if not search.is_done:
                parents, children = search.step(self.sequences, len(rows))
                rows += parents
                grown += children
        if rows:
            self.rows.reorder(rows)
            self.sequences = grown
        return len(rows)
