# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A pipeline with a loop of its own, as a vendor's stack would have it; single decisions can be spoilt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface import (
    CacheOverflowError,
    Chunk,
    GenerationConfig,
    GenerationResult,
    InvalidInputError,
    PerfMetrics,
    TokenLogprob,
)
from genai_iface.conformance._sampling_reference import Settings, law, processed, uniform
from genai_iface.folder import open_folder
from tests.conformance.plain import PlainAdapter, PlainBackend, PlainModel


class PlainPipeline:
    """Implements ``Pipeline``: one sequence after the other, no batch at all."""

    def __init__(self, model: PlainModel, folder: Path) -> None:
        opened = open_folder(folder)
        self.model = model
        self.tokenizer = opened.tokenizer
        self.generation_config = opened.generation_config
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def generate(self, prompt: Any, config: GenerationConfig | None = None, **overrides: Any) -> GenerationResult:
        config, prompts = self.prepare(prompt, config, overrides)
        seed = config.seed if config.seed is not None else time.perf_counter_ns()
        chunks = [list(self.sequence(tokens, config, seed, index)) for index, tokens in enumerate(prompts)]
        token_ids = [[token for chunk in row for token in chunk.token_ids] for row in chunks]
        logprobs = [[entry for chunk in row for entry in chunk.logprobs or ()] for row in chunks]
        return GenerationResult(
            texts=["".join(chunk.text for chunk in row) for row in chunks],
            token_ids=token_ids,
            finish_reasons=[row[-1].finish_reason for row in chunks],  # type: ignore[misc]
            logprobs=logprobs if config.logprobs is not None else None,
            perf_metrics=PerfMetrics(
                num_prompt_tokens=sum(map(len, prompts)),
                num_generated_tokens=sum(map(len, token_ids)),
                time_to_first_token=1e-3,
            ),
            seed=seed if config.samples else None,
        )

    def stream(self, prompt: Any, config: GenerationConfig | None = None, **overrides: Any) -> Iterator[Chunk]:
        config, prompts = self.prepare(prompt, config, overrides)
        return (
            chunk for index, row in enumerate(prompts) for chunk in self.sequence(row, config, config.seed or 0, index)
        )

    def prepare(self, prompt: Any, config: GenerationConfig | None, overrides: Any) -> tuple[Any, list[list[int]]]:
        if self.is_closed:
            raise InvalidInputError("the pipeline is closed", remedy="Make another.")
        config = self.merged(config, overrides)
        if isinstance(prompt, str):
            prompts = [self.tokenizer.encode(prompt)]
        elif prompt and isinstance(prompt[0], dict):
            prompts = [self.tokenizer.encode(self.tokenizer.apply_chat_template(prompt))]
        elif prompt and isinstance(prompt[0], int):
            prompts = [list(prompt)]
        else:
            prompts = [self.tokenizer.encode(item) if isinstance(item, str) else list(item) for item in prompt]
        longest = max(map(len, prompts), default=0)
        if not prompts or not all(prompts):
            raise InvalidInputError("a prompt is empty", remedy="Give at least one token.")
        if longest > self.model.spec.context_length:
            raise CacheOverflowError(0, longest, self.model.spec.context_length)
        if max(map(max, prompts)) >= self.model.spec.vocab_size:
            raise InvalidInputError("a token id is out of range", remedy="Use the folder's tokenizer.")
        return config, [row for row in prompts for _ in range(config.num_return_sequences)]

    def sequence(self, prompt: list[int], config: GenerationConfig, seed: int, index: int) -> Iterator[Chunk]:
        """The chunks of one sequence."""
        began = time.perf_counter()
        stops = self.stops(config)
        cache = self.model.create_cache()
        tokens, new, given, waiting, waiting_logprobs = list(prompt), [], "", [], []  # type: ignore[var-annotated]
        limit = self.limit(config, len(prompt))
        reason, text = None, ""
        while reason is None:
            if config.max_time is not None and time.perf_counter() - began >= config.max_time:
                reason = "time"
            elif len(tokens) >= limit:
                reason = "length"
            else:
                logits = self.model.forward([tokens[int(cache.lengths[0]) :]], cache)[0, 0].astype(np.float64)
                token = self.choose(logits, tokens, len(new), stops, config, seed, index)
                tokens.append(token)
                new.append(token)
                waiting.append(token)
                if config.logprobs is not None:
                    waiting_logprobs.append(self.logprob(logits, token, config.logprobs))
                text = self.visible_text(prompt, new, stops, config)
                end = self.find_stop(text, config)
                if end is not None:
                    text, reason = text[:end], "stop"
                elif token in stops:
                    reason = "stop"
                elif len(tokens) >= limit:
                    reason = "length"
            stable = text if reason else self.stable(text, config)
            piece = stable[len(given) :]
            if piece or reason:
                given += piece
                entries = tuple(waiting_logprobs) if config.logprobs is not None else None
                yield Chunk(piece, self.reported(waiting, reason), entries, index, reason)  # type: ignore[arg-type]
                waiting, waiting_logprobs = [], []

    # Decisions, one each.

    def merged(self, config: GenerationConfig | None, overrides: Any) -> GenerationConfig:
        defaults = self.generation_config
        config = (config or defaults).replace(**overrides)
        return config if config.eos_token_id is not None else config.replace(eos_token_id=defaults.eos_token_id)

    def stops(self, config: GenerationConfig) -> set[int]:
        return {*(() if config.ignore_eos else config.eos_token_ids), *config.stop_token_ids}

    def limit(self, config: GenerationConfig, num_prompt: int) -> int:
        bounds = [self.model.spec.context_length]
        bounds += [config.max_length] if config.max_length else []
        bounds += [num_prompt + config.max_new_tokens] if config.max_new_tokens is not None else []
        return min(bounds)

    def settings(self, config: GenerationConfig) -> Settings:
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(Settings)}
        return Settings(**{**values, "logit_bias": dict(config.logit_bias)})

    def law(self, logits: np.ndarray, tokens: Sequence[int], settings: Settings) -> np.ndarray:
        return law(logits, tokens, settings)

    def processed(
        self, logits: np.ndarray, tokens: list[int], num_new: int, stops: set[int], settings: Settings
    ) -> np.ndarray:
        return np.array(processed(logits, tokens, settings, num_new=num_new, stops=stops))

    def uniform(self, seed: int, index: int, position: int) -> float:
        return uniform(seed, index, position)

    def choose(
        self,
        logits: np.ndarray,
        tokens: list[int],
        num_new: int,
        stops: set[int],
        config: GenerationConfig,
        seed: int,
        index: int,
    ) -> int:
        settings = self.settings(config)
        scores = self.processed(logits, tokens, num_new, stops, settings)
        if not config.samples:
            return int(scores.argmax())
        # What the processors did is done.
        filters = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        probabilities = self.law(scores, tokens, Settings(**{name: getattr(settings, name) for name in filters}))
        cumulative = np.cumsum(probabilities)
        u = self.uniform(seed, index, len(tokens))
        return int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))

    def visible_text(self, prompt: list[int], new: list[int], stops: set[int], config: GenerationConfig) -> str:
        shown = new[:-1] if new[-1] in stops and not config.include_stop_str_in_output else new
        return self.tokenizer.decode(shown)

    def find_stop(self, text: str, config: GenerationConfig) -> int | None:
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in config.stop_strings if stop in text]
        if not found:
            return None
        end, start = min(found)
        return end if config.include_stop_str_in_output else start

    def stable(self, text: str, config: GenerationConfig) -> str:
        """The text that no later token can change or take back."""
        text = text.rstrip("\ufffd")
        for size in range(len(text), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in config.stop_strings):
                return text[:-size]
        return text

    def reported(self, tokens: list[int], reason: str | None) -> tuple[int, ...]:
        return tuple(tokens)

    def logprob(self, logits: np.ndarray, token: int, num_top: int) -> TokenLogprob:
        scores = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        best = np.argsort(-scores, kind="stable")[:num_top]
        return TokenLogprob(token, float(scores[token]), tuple((int(t), float(scores[t])) for t in best))


class PlainStack(PlainAdapter):
    """The adapter of a stack that owns its loop."""

    pipeline_type = PlainPipeline

    def __init__(self, pipeline_type: type[PlainPipeline] = PlainPipeline, name: str = "plain_stack") -> None:
        super().__init__(PlainBackend(), name)
        self.pipeline_type = pipeline_type

    def pipeline(self, folder: Path, /) -> PlainPipeline:
        return self.pipeline_type(PlainModel(folder), folder)
