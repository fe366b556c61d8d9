# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A runtime that owns its loop: it gives generators and no model, and shares no code with the SDK's own loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface import (
    BackendInfo,
    CacheOverflowError,
    CacheRewindError,
    Capability,
    Device,
    FinishReason,
    GenerationConfig,
    InvalidInputError,
    UnsupportedCapabilityError,
)
from tests.fakes import FakeModel

VOCAB = 261
EOS = 257
# Whatever else is not neutral is refused.
KNOWN = {"stop_token_ids", "eos_token_id", "ignore_eos", "do_sample", "seed", "logit_bias", "temperature"}


class FakeGenerator:
    """Greedy over the logits of a fake model; sampling adds a number that depends on the seed alone."""

    def __init__(self, model: FakeModel, config: GenerationConfig, capacity: int | None) -> None:
        self.model, self.config = model, config
        self.capacity = capacity or 1000
        self.tokens: list[int] = []
        self.last: int | None = None
        self.reason: FinishReason | None = None
        self.override: NDArray[np.float32] | None = None
        self.num_run = 0
        self.can_rewind = True

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        return (self.reason,)

    def append_tokens(self, token_ids: Any, /) -> None:
        if len(self.tokens) + len(token_ids) > self.capacity:
            raise CacheOverflowError(0, len(self.tokens) + len(token_ids), self.capacity)
        self.tokens += token_ids
        self.num_run += len(token_ids)
        self.reason = "length" if len(self.tokens) == self.capacity else None

    def generate_next_token(self) -> None:
        if not self.tokens or self.reason is not None:
            raise InvalidInputError("there is nothing to continue")
        scores = self.get_logits()[0].copy()
        for token, bias in self.config.logit_bias.items():
            scores[token] += bias
        if self.config.samples:
            scores += np.random.default_rng((self.config.seed or 0, len(self.tokens))).gumbel(size=VOCAB) * 5
        self.last = int(scores.argmax())
        self.override = None
        self.tokens.append(self.last)
        if self.last == EOS and not self.config.ignore_eos:
            self.reason = "stop"
        elif len(self.tokens) == self.capacity:
            self.reason = "length"

    def is_done(self) -> bool:
        return self.reason is not None

    def get_next_tokens(self) -> list[int | None]:
        return [self.last]

    def get_sequence(self, index: int, /) -> list[int]:
        return list(self.tokens)

    def token_count(self, index: int = 0, /) -> int:
        return len(self.tokens)

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        if not self.can_rewind:
            raise CacheRewindError(0, 0, len(self.tokens), "it never can")
        assert isinstance(length, int)
        del self.tokens[length:]
        self.reason = None

    def get_logits(self) -> NDArray[np.float32]:
        return self.model.logits_after(self.tokens)[None] if self.override is None else self.override

    def set_logits(self, logits: ArrayLike, /) -> None:
        self.override = np.array(logits, np.float32)

    def cancel(self) -> None:
        self.reason = self.reason or "cancelled"


class FakeRuntime:
    """The backend.

    Args:
        script: As for ``FakeModel``.
        capabilities: What it declares.
    """

    def __init__(
        self,
        script: Callable[[Sequence[int]], int] | None = None,
        capabilities: frozenset[str] = frozenset({Capability.GENERATOR}),
    ) -> None:
        self.model = FakeModel(VOCAB, script=script)
        self.capabilities = capabilities
        self.made: list[FakeGenerator] = []
        self.asked: list[tuple[Any, str | None, Any]] = []

    def info(self) -> BackendInfo:
        return BackendInfo("fake", "1", "fake", "1", frozenset({1}), self.capabilities, frozenset({"float32"}))

    def devices(self) -> Sequence[Device]:
        return [Device("cpu", "cpu")]

    def load(self, folder: Any, /, *, device: str | None = None, options: Mapping[str, Any] | None = None) -> Any:
        raise UnsupportedCapabilityError("The runtime owns the loop")

    def generator(
        self,
        folder: Any,
        /,
        *,
        config: GenerationConfig,
        capacity: int | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> FakeGenerator:
        neutral = GenerationConfig()
        for field in dataclasses.fields(config):
            if field.name in KNOWN:
                continue
            if getattr(config, field.name) != getattr(neutral, field.name):
                raise UnsupportedCapabilityError(f"{field.name} is not supported", remedy="Leave it alone.")
        self.asked.append((folder, device, options))
        self.made.append(FakeGenerator(self.model, config, capacity))
        return self.made[-1]
