# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beam search over any model that can reorder its cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation.beam.prompt_search import Hypothesis, PromptSearch
from genai_iface.generation.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.metrics import Stopwatch
from genai_iface.generation.plan import SequencePlan
from genai_iface.generation.sequence import TokenSequence
from genai_iface.generation.text.stopping import StopHook
from genai_iface.generation.token_ids import as_ids
from genai_iface.protocols import Model, Tokenizer
from genai_iface.results import FinishReason, PerfMetrics

__all__ = ["BeamSearch", "Hypothesis"]


class BeamSearch:
    """Searches the best continuations of several prompts at once; the prompts do not depend on each other.

    A batch holds the beams that go on and nothing else: ``KVCache.reorder`` makes it after each step.

    Args:
        model: The model; it needs the capabilities "batch" and "reorder".
        plans: How to continue each prompt.
        prompts: The token ids of each prompt.
        capacity: Tokens that a sequence may have.
        tokenizer: Makes text for stop strings and criteria.
        continues_text: As for ``ModelGenerator``.
        stopping_criteria: The caller's functions on (tokens, text).
        prefill_chunk_size: Most tokens per sequence in one step.
        on_prefill: Told after each step of a prompt how many tokens are done, and of how many.
        stopwatch: Measures from when it was made; None for a new one.

    Raises:
        UnsupportedCapabilityError: The model lacks a capability.
        InvalidInputError: There are more beams than half of the vocabulary.
    """

    def __init__(
        self,
        model: Model[Any],
        plans: Sequence[SequencePlan],
        prompts: Sequence[Sequence[int]],
        *,
        capacity: int,
        tokenizer: Tokenizer | None = None,
        continues_text: bool = True,
        stopping_criteria: Sequence[StopHook] = (),
        prefill_chunk_size: int = DEFAULT_PREFILL_CHUNK_SIZE,
        on_prefill: Callable[[int, int], None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        for capability in (Capability.BATCH, Capability.REORDER):
            if capability not in model.capabilities:
                raise UnsupportedCapabilityError(
                    f"Beam search needs the capability {str(capability)!r}, which this model does not declare",
                    capability=capability,
                    remedy="Set num_beams=1.",
                )
        vocab_size = model.spec.vocab_size
        for plan in plans:
            if 2 * plan.config.num_beams > vocab_size:
                raise InvalidInputError(
                    f"num_beams={plan.config.num_beams} is more than half of the {vocab_size} tokens",
                    remedy=f"Use at most {vocab_size // 2}.",
                )
        self._model = model
        self._capacity = capacity
        self._chunk_size = prefill_chunk_size
        self._on_prefill = on_prefill
        self._stopwatch = stopwatch or Stopwatch()
        self._is_cancelled = False
        self._cache_bytes = 0
        self._searches = [
            PromptSearch(plan, as_ids(list(prompt), vocab_size), capacity, tokenizer, continues_text, stopping_criteria)
            for plan, prompt in zip(plans, prompts, strict=True)
        ]
        self._num_prompt_tokens = sum(map(len, prompts))
        # Without ragged steps each prompt is searched alone: its beams are equally long at any time.
        together = Capability.RAGGED in model.capabilities and not model.spec.cache.is_circular
        singles = [[search] for search in self._searches]
        self._waiting = [self._searches] if together else singles
        self._batch: _Batch | None = None

    @property
    def metrics(self) -> PerfMetrics:
        """Measurements since this search was made; every beam's tokens count."""
        return self._stopwatch.metrics(num_prompt_tokens=self._num_prompt_tokens, cache_bytes=self._cache_bytes)

    def hypotheses(self, index: int, /) -> list[Hypothesis]:
        """The best continuations of a prompt, best first: ``num_return_sequences`` of them."""
        return self._searches[index].results()

    def step(self) -> bool:
        """Takes one step of the search; False once all prompts are done."""
        started = time.perf_counter()
        batch = self._batch
        if batch is None:
            self._waiting = [group for group in self._waiting if any(not one.is_done for one in group)]
            if not self._waiting:
                return False
            group = [search for search in self._waiting.pop(0) if not search.is_done]
            batch = self._batch = _Batch(self._model, group, self._capacity, self._chunk_size)
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
        return True

    def cancel(self) -> None:
        """Ends the search with what there is, reason "cancelled". May be called from any thread."""
        self._is_cancelled = True

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        if self._batch is not None:
            self._batch.rows.close()
            self._batch = None
            self._waiting = []

    def _is_late(self, search: PromptSearch) -> bool:
        limit = search.plan.config.max_time
        return limit is not None and self._stopwatch.elapsed >= limit

    def _is_interrupted(self) -> bool:
        return self._is_cancelled or any(self._is_late(one) for one in self._searches if not one.is_done)


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
