# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One request: everything that was asked, checked, before anything runs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from genai_iface.config import DEFAULT_MAX_NEW_TOKENS, GenerationConfig
from genai_iface.errors import CacheOverflowError, InvalidInputError
from genai_iface.generation._supported import check_supported, check_together
from genai_iface.generation.hooks import GenerationHooks
from genai_iface.generation.sampling.sampler import new_seed
from genai_iface.generation.text.prompts import encode_prompt
from genai_iface.protocols import Prompt, Tokenizer
from genai_iface.types import ModelSpec

__all__ = ["UNBOUNDED", "GenerationRequest", "context_of", "make_request", "one_per_sequence"]

UNBOUNDED = sys.maxsize
"""The capacity of a sequence that nothing here bounds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationRequest:
    """What was asked, for one or several prompts.

    Attributes:
        prompts: Token ids of each prompt.
        configs: The configuration of each prompt, with what ends it and, where tokens are drawn, with a seed.
        hooks: The caller's own functions and rules.
        capacity: Tokens that each row of the cache must hold; ``UNBOUNDED`` where a runtime bounds it by itself.
        continues_text: Whether the text goes on where the prompt ends, or begins anew.
        seed: What the result reports.
        started: When the call began, by ``time.perf_counter``.
        is_bounded: Whether the caller or the model said how long the output may be, for every prompt.
    """

    prompts: Sequence[list[int]]
    configs: Sequence[GenerationConfig]
    hooks: GenerationHooks
    capacity: int
    continues_text: bool = True
    seed: int | None = None
    started: float = dataclasses.field(default_factory=perf_counter)
    is_bounded: bool = True

    @property
    def sequences(self) -> list[tuple[list[int], GenerationConfig]]:
        """The prompt and the configuration of each sequence: every prompt has ``num_return_sequences`` of them."""
        pairs = zip(self.prompts, self.configs, strict=True)
        return [(prompt, config) for prompt, config in pairs for _ in range(config.num_return_sequences)]

    @property
    def num_sequences(self) -> int:
        """How many sequences the result has."""
        return sum(config.num_return_sequences for config in self.configs)

    @property
    def most_new_tokens(self) -> int | None:
        """The most tokens that all sequences can get together; None where one has no ``max_new_tokens``."""
        bounds = [(config.max_new_tokens, config.num_return_sequences) for config in self.configs]
        return sum((most or 0) * count for most, count in bounds) if all(most for most, _ in bounds) else None


def make_request(
    prompt: Prompt,
    tokenizer: Tokenizer,
    configs: GenerationConfig | Sequence[GenerationConfig],
    hooks: GenerationHooks,
    overrides: Mapping[str, Any],
    *,
    eos_token_ids: Sequence[int],
    spec: ModelSpec | None,
    chat_template: str | None = None,
) -> GenerationRequest:
    """Encodes the prompt and checks what goes with it.

    Args:
        prompt: What the user gave.
        tokenizer: The tokenizer that encodes the prompt.
        configs: One configuration for all prompts, or one for each.
        hooks: The caller's own functions and rules.
        overrides: Single fields of ``GenerationConfig``, over each configuration.
        eos_token_ids: What ends a sequence if a configuration itself names nothing.
        spec: The model's; None if a runtime owns the loop, which then bounds the output itself.
        chat_template: Which template renders a conversation.

    Raises:
        InvalidInputError: A prompt is empty, or a parameter is not legal.
        UnsupportedCapabilityError: What was asked cannot be done together.
        CacheOverflowError: A prompt is longer than the model's context.
    """
    started = perf_counter()
    encoded = encode_prompt(tokenizer, prompt, chat_template)
    given = [one.replace(**overrides) for one in one_per_sequence(configs, len(encoded.token_ids))]
    for one in given:
        check_supported(one)
    check_together(given, hooks)
    seeded, seed = _with_seeds([_bounded(_ending(one, eos_token_ids)) for one in given])
    return GenerationRequest(
        prompts=encoded.token_ids,
        configs=seeded,
        hooks=hooks,
        # A runtime that owns the loop knows its own context; it is asked for less where the caller said so.
        capacity=_capacity_for(spec, encoded.token_ids, given if spec is None else seeded),
        continues_text=encoded.continues_text,
        seed=seed,
        started=started,
        is_bounded=all(map(_is_bounded, given)),
    )


def one_per_sequence(
    config: GenerationConfig | Sequence[GenerationConfig] | None, num_sequences: int
) -> list[GenerationConfig]:
    """The configuration of each sequence.

    Raises:
        InvalidInputError: It is a list of another length.
    """
    if config is None or isinstance(config, GenerationConfig):
        return [config or GenerationConfig()] * num_sequences
    if len(config) != num_sequences:
        raise InvalidInputError(
            f"{len(config)} configurations for {num_sequences} sequences", remedy="Give one for each, or one for all."
        )
    return list(config)


def context_of(spec: ModelSpec, /) -> int | None:
    """The most tokens that a sequence may have, None where nothing bounds it."""
    return min((n for n in (spec.context_length, spec.cache.fixed_capacity) if n is not None), default=None)


def _ending(config: GenerationConfig, eos_token_ids: Sequence[int]) -> GenerationConfig:
    """The configuration with something that ends a sequence, where it names nothing itself."""
    if config.eos_token_id is not None or not eos_token_ids:
        return config
    return dataclasses.replace(config, eos_token_id=tuple(eos_token_ids))


def _is_bounded(config: GenerationConfig) -> bool:
    return config.max_new_tokens is not None or config.max_length is not None


def _bounded(config: GenerationConfig) -> GenerationConfig:
    """The configuration with a limit, where it names none: a model may never end by itself."""
    return config if _is_bounded(config) else dataclasses.replace(config, max_new_tokens=DEFAULT_MAX_NEW_TOKENS)


def _with_seeds(configs: Sequence[GenerationConfig]) -> tuple[list[GenerationConfig], int | None]:
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


def _capacity_for(spec: ModelSpec | None, prompts: Sequence[Sequence[int]], configs: Sequence[GenerationConfig]) -> int:
    """The tokens that the rows of a cache must hold.

    Raises:
        CacheOverflowError: A prompt is longer than the model's context.
    """
    context = UNBOUNDED if spec is None else context_of(spec)
    needed = 1
    for row, (prompt, config) in enumerate(zip(prompts, configs, strict=True)):
        if context is not None and len(prompt) > context:
            raise CacheOverflowError(row, len(prompt), context, is_prompt=True)
        bounds = [] if context is None else [context]
        if config.max_new_tokens is not None:
            bounds.append(len(prompt) + config.max_new_tokens)
        if config.max_length is not None:
            bounds.append(max(len(prompt), config.max_length))
        needed = max(needed, min(bounds))
    return needed
