# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Requests on a runtime that owns the loop: its generators give tokens, the text is made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TypeAlias

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.generation._request import UNBOUNDED, GenerationRequest
from genai_iface.generation._running import RunningSequence
from genai_iface.generation._stopwatch import Stopwatch
from genai_iface.generation.sampling.sampler import make_sampler
from genai_iface.protocols import Generator, Tokenizer
from genai_iface.results import Chunk, PerfMetrics

__all__ = ["GeneratorSource", "RuntimeLoop", "refuse_on_runtime"]

GeneratorSource: TypeAlias = Callable[[list[int], GenerationConfig, int], tuple[Generator, int]]
"""Gives a generator that holds a prompt, for a configuration and a capacity, and how many tokens it held before."""

_MAX_SEED = 2**64


class RuntimeLoop:
    """Drives one generator of the runtime for each sequence of a request. Implements ``Engine``.

    The runtime chooses the tokens. Stop strings, stop tokens, length and time limits, streaming and the caller's
    criteria are watched here.

    Args:
        request: What was asked.
        tokenizer: Text from tokens.
        source: Gives a generator for each sequence.

    Raises:
        UnsupportedCapabilityError: The request asks for what only a loop of our own can do.
    """

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, source: GeneratorSource) -> None:
        _check_runtime_can(request)
        self._source = source
        self._capacity = request.capacity
        self._is_cancelled = False
        self._is_stepping = False
        self._has_begun = False
        self._num_reused_tokens = 0
        self._num_prompt_tokens = sum(len(prompt) for prompt, _ in request.sequences)
        self._stopwatch = Stopwatch(request.started)
        self._prompts = [prompt for prompt, _ in request.sequences]
        self._generators: dict[int, Generator] = {}
        self._sequences = [
            RunningSequence(
                # Only the runtime knows how many logits there are.
                make_sampler(config, request.hooks, vocab_size=UNBOUNDED),
                index=index,
                capacity=request.capacity,
                tokenizer=tokenizer,
                continues_text=request.continues_text or config.echo,
                stopping_criteria=request.hooks.stopping_criteria,
            )
            for index, (_, config) in enumerate(request.sequences)
        ]
        for sequence, prompt in zip(self._sequences, self._prompts, strict=True):
            sequence.append_input(prompt)

    @property
    def has_ended(self) -> bool:
        """Whether every sequence has given its last chunk."""
        return all(sequence.has_given_all for sequence in self._sequences)

    @property
    def is_sound(self) -> bool:
        """Whether its generators may be used on: nobody cancelled them and no step failed."""
        return not self._is_cancelled and not self._is_stepping

    @property
    def metrics(self) -> PerfMetrics:
        """The measurements so far; what the runtime's caches take is not known."""
        return self._stopwatch.metrics(
            num_prompt_tokens=self._num_prompt_tokens, cache_bytes=0, num_reused_tokens=self._num_reused_tokens
        )

    def step(self) -> list[Chunk]:
        """Takes one token from each generator. See ``Engine.step``."""
        started = perf_counter()
        num_tokens = 0
        self._is_stepping = True
        if not self._has_begun:
            self._has_begun = True
            for sequence in self._sequences:
                sequence.start_clock()
        for index, sequence in enumerate(self._sequences):
            sequence.interrupt(is_cancelled=self._is_cancelled)
            if not sequence.is_done:
                num_tokens += self._advance(sequence, self._generators.get(index) or self._start(index))
                sequence.interrupt(is_cancelled=self._is_cancelled)
        self._is_stepping = False
        self._stopwatch.add(perf_counter() - started, num_tokens)
        return [chunk for sequence in self._sequences if (chunk := sequence.take_chunk()) is not None]

    def cancel(self) -> None:
        """Ends all sequences with the reason "cancelled". May be called from any thread."""
        self._is_cancelled = True
        for generator in list(self._generators.values()):
            generator.cancel()

    def close(self) -> None:
        """Lets the generators go."""
        self._generators.clear()

    def _start(self, index: int) -> Generator:
        sequence = self._sequences[index]
        config = sequence.config
        # Sequences of one prompt must not be equal, and a runtime knows nothing of the others.
        seed = None if config.seed is None else (config.seed + index) % _MAX_SEED
        generator, num_reused = self._source(self._prompts[index], _for_runtime(config, seed), self._capacity)
        self._num_reused_tokens += num_reused
        self._generators[index] = generator
        return generator

    def _advance(self, sequence: RunningSequence, generator: Generator) -> int:
        """Takes a token; returns how many came."""
        if generator.is_done():
            sequence.end(generator.finish_reasons[0] or "stop")
            return 0
        logits = None if sequence.config.logprobs is None else generator.get_logits()[0]
        generator.generate_next_token()
        (token,) = generator.get_next_tokens()
        if token is None:
            sequence.end(generator.finish_reasons[0] or "cancelled")
            return 0
        sequence.take(token, logits)
        sequence.settle(token)
        if not sequence.is_done and generator.is_done():
            sequence.end(generator.finish_reasons[0] or "length")
        return 1


def _for_runtime(config: GenerationConfig, seed: int | None) -> GenerationConfig:
    """What the runtime has to know: a field that is watched here is neutral there."""
    return replace(
        config,
        seed=seed,
        num_return_sequences=1,
        max_new_tokens=None,
        max_length=None,
        max_time=None,
        stop_strings=(),
        include_stop_str_in_output=False,
        echo=False,
        logprobs=None,
    )


def _check_runtime_can(request: GenerationRequest) -> None:
    hooks, configs = request.hooks, request.configs
    asked = {
        "logits_processors": (bool(hooks.logits_processors), ""),
        "constraint": (hooks.constraint is not None, ""),
        "prefix": (hooks.prefix is not None, Capability.SAVE),
        "speculation": (hooks.speculation is not None, Capability.LOGITS_ALL),
        "num_beams": (any(one.num_beams > 1 for one in configs), Capability.REORDER),
        "json_schema": (any(one.json_schema is not None for one in configs), ""),
        "regex": (any(one.regex is not None for one in configs), ""),
        "lark_grammar": (any(one.lark_grammar is not None for one in configs), ""),
        "echo with logprobs": (any(one.echo and one.logprobs is not None for one in configs), Capability.LOGITS_ALL),
    }
    for name, (is_asked, capability) in asked.items():
        if is_asked:
            raise refuse_on_runtime(name, capability)


def refuse_on_runtime(what: str, capability: str = "") -> UnsupportedCapabilityError:
    """The error for what a runtime that owns the loop cannot be asked for.

    Args:
        what: The field or the call.
        capability: What a model would have to declare for it.
    """
    return UnsupportedCapabilityError(
        f"{what} needs a loop of our own, and this backend's runtime owns the loop (capability "
        f"{str(Capability.GENERATOR)!r})",
        capability=capability,
        remedy="Leave it alone, or use a backend that runs steps, such as 'numpy' or 'ort'.",
    )
