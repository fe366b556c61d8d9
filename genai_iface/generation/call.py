# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One call of a pipeline: what was asked, and the generator that does it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from genai_iface.config import GenerationConfig
from genai_iface.errors import CacheOverflowError, InvalidInputError
from genai_iface.generation.beam.search import BeamSearch
from genai_iface.generation.cached_rows import CachedRows
from genai_iface.generation.constraints import Constraint
from genai_iface.generation.generator import ModelGenerator
from genai_iface.generation.metrics import Stopwatch
from genai_iface.generation.plan import new_seed
from genai_iface.generation.sampling.processors import LogitsHook
from genai_iface.generation.speculation.speculator import Speculation
from genai_iface.generation.text.stopping import StopHook
from genai_iface.results import Chunk, PerfMetrics
from genai_iface.types import ModelSpec

__all__ = ["Call", "RunningTurn", "capacity_for", "context_of", "split_options", "with_seeds"]


_EXTRAS = frozenset({"logits_processors", "stopping_criteria", "constraint", "prefix", "speculation"})


class Call:
    """One call, and the generator that does it once it has begun.

    Args:
        prompts: Token ids of each sequence.
        configs: The configuration of each sequence.
        seed: What the result reports.
        capacity: Tokens that the caches must hold.
        continues_text: As for ``ModelGenerator``.
        stopwatch: Runs since the call.
        logits_processors: The caller's own.
        stopping_criteria: The caller's own.
        constraint: The caller's own.
        prefix: A file of ``save_prefix``.
        speculation: How to guess tokens.

    Attributes:
        metrics: The measurements, once it is closed.
        beam_scores: Of each sequence, if beams were searched.
        token_ids: All tokens of the first sequence, once it is closed.
    """

    def __init__(
        self,
        *,
        prompts: list[list[int]],
        configs: list[GenerationConfig],
        seed: int | None,
        capacity: int,
        continues_text: bool,
        stopwatch: Stopwatch,
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        prefix: str | PathLike[str] | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self.prompts = prompts
        self.configs = configs
        self.seed = seed
        self.capacity = capacity
        self.continues_text = continues_text
        self.stopwatch = stopwatch
        self.logits_processors = logits_processors
        self.stopping_criteria = stopping_criteria
        self.constraint = constraint
        self.prefix = prefix
        self.speculation = speculation
        self.generator: ModelGenerator[Any] | None = None
        # Caches that begin with tokens which ran before, and how many; kept open if they are borrowed.
        self.rows: CachedRows[Any] | None = None
        self.num_reused_tokens = 0
        self.borrows_rows = False
        self.token_ids: list[int] = []
        self.search: BeamSearch | None = None
        self.beam_scores: list[float] | None = None
        self.metrics = PerfMetrics()
        self.is_cancelled = False
        # Held during a step, so that another thread cannot free the cache under it.
        self.lock = threading.RLock()

    def borrow(self, rows: CachedRows[Any]) -> None:
        """Takes the cache of a conversation, which stays open afterwards.

        Raises:
            InvalidInputError: The call is for more than one plain sequence.
            CacheOverflowError: The conversation is longer than the cache.
        """
        (config, *others) = self.configs
        if others or config.num_beams > 1 or config.echo:
            raise InvalidInputError(
                "A conversation has one answer at a time, without beams and echo", remedy="Leave these fields alone."
            )
        if len(self.prompts[0]) > rows.capacity:
            raise CacheOverflowError(0, len(self.prompts[0]), rows.capacity)
        self.rows, self.borrows_rows, self.continues_text = rows, True, False

    def cancel(self) -> None:
        """Ends it with what it has."""
        self.is_cancelled = True
        generator = self.generator
        if generator is not None:
            generator.cancel()
        search = self.search
        if search is not None:
            search.cancel()

    def close(self) -> None:
        """Frees the cache and keeps the measurements."""
        with self.lock:
            if self.generator is not None:
                self.metrics = self.generator.metrics
                self.generator.settle()
                self.token_ids = self.generator.get_sequence(0)
                if self.borrows_rows:
                    self.generator.close_drafter()
                else:
                    self.generator.close()
                self.generator = None
            elif self.rows is not None and not self.borrows_rows:
                self.rows.close()
            if self.search is not None:
                self.metrics = self.search.metrics
                self.search.close()
                self.search = None


class RunningTurn:
    """An answer in a conversation: the call, and its chunks."""

    def __init__(self, call: Call, chunks: Iterator[Chunk]) -> None:
        self._call = call
        self.chunks = chunks

    @property
    def token_ids(self) -> list[int]:
        """All tokens of the conversation, once the chunks have ended."""
        return self._call.token_ids

    @property
    def metrics(self) -> PerfMetrics:
        """The measurements, once the chunks have ended."""
        return self._call.metrics


def split_options(options: Mapping[str, Any], /) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords of a call as fields of ``GenerationConfig``, and those that are more than numbers and texts."""
    fields = {name: value for name, value in options.items() if name not in _EXTRAS}
    return fields, {name: value for name, value in options.items() if name in _EXTRAS}


def with_seeds(configs: Sequence[GenerationConfig]) -> tuple[list[GenerationConfig], int | None]:
    """The configurations with a seed wherever tokens are drawn, and the seed to report.

    Those that name none share a new one, which is reported; otherwise the first one that is named is.
    """
    fresh = new_seed() if any(config.samples and config.seed is None for config in configs) else None
    named = [config.seed for config in configs if config.samples and config.seed is not None]
    seeded = [
        dataclasses.replace(config, seed=fresh) if config.samples and config.seed is None else config
        for config in configs
    ]
    return seeded, fresh if fresh is not None else next(iter(named), None)


def context_of(spec: ModelSpec, /) -> int | None:
    """The most tokens that a sequence may have, None where nothing bounds it."""
    return min((n for n in (spec.context_length, spec.cache.fixed_capacity) if n is not None), default=None)


def capacity_for(spec: ModelSpec, prompts: Sequence[Sequence[int]], configs: Sequence[GenerationConfig]) -> int:
    """The tokens that the caches of a call must hold.

    Raises:
        CacheOverflowError: A prompt is longer than the model's context.
        InvalidInputError: Nothing bounds the output.
    """
    context = context_of(spec)
    needed = 1
    for row, (prompt, config) in enumerate(zip(prompts, configs, strict=True)):
        if context is not None and len(prompt) > context:
            raise CacheOverflowError(row, len(prompt), context)
        bounds = [] if context is None else [context]
        if config.max_new_tokens is not None:
            bounds.append(len(prompt) + config.max_new_tokens)
        if config.max_length is not None:
            bounds.append(max(len(prompt), config.max_length))
        if not bounds:
            raise InvalidInputError(
                "Nothing bounds the length of the output: the model has no context length",
                remedy="Give max_new_tokens or max_length.",
            )
        needed = max(needed, min(bounds))
    return needed
