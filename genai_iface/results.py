# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What generation gives back: chunks while it runs, a result and its measurements at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from genai_iface.display import Displayed, in_bytes

__all__ = ["Chunk", "FinishReason", "GenerationResult", "PerfMetrics", "Score", "TokenLogprob"]

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "time"]
"""Why a sequence ended: a stop token or string, a length limit, cancel(), or max_time."""


_SHOWN = 200


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token and of its likeliest alternatives.

    Attributes:
        token_id: The id of the token.
        logprob: Natural log of its probability under the model, before any processor; NaN for a token
            of the prompt that follows nothing.
        top: The likeliest tokens with their log-probabilities, highest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one sequence's output, as it streams.

    Attributes:
        text: New text; whole characters only, possibly empty on the last chunk.
        token_ids: The tokens that were generated since the last chunk of this sequence.
        logprobs: One entry per token when asked for, otherwise None.
        index: Which sequence: prompts in order, each with its num_return_sequences.
        finish_reason: Set on the sequence's last chunk only.
        beam_score: The sequence's normalized score, if beams were searched.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    index: int = 0
    finish_reason: FinishReason | None = None
    beam_score: float | None = None


@dataclass(frozen=True, slots=True)
class PerfMetrics:
    """Measurements of one call. Times are wall-clock seconds.

    Attributes:
        num_prompt_tokens: Prompt tokens over all sequences.
        num_generated_tokens: Generated tokens over all sequences.
        num_reused_tokens: Prompt tokens that were already in the cache.
        prefill_seconds: Time of the prompt's steps.
        decode_seconds: Time of the steps after each sequence's first token.
        num_decode_tokens: Tokens that those steps generated, over all sequences.
        num_decode_steps: The number of these steps: runs of the model, whatever they gave.
        time_to_first_token: From the call to the first generated token (TTFT); 0 if there is none.
        cache_bytes: Bytes that the cache held at the end.
        num_drafted_tokens: Drafts of speculative decoding that the model has checked.
        num_accepted_tokens: Those that became part of the output.
        num_rerun_tokens: Tokens that ran once more, because a model that keeps states, or a cache that wraps around,
            could not go back exactly to where it was wanted.
        num_decode_rounds: How often decoding chose tokens, one for each sequence that went on; as many as steps, but
            with speculation one step may serve several rounds.
    """

    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_reused_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    num_decode_tokens: int = 0
    num_decode_steps: int = 0
    time_to_first_token: float = 0.0
    cache_bytes: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_rerun_tokens: int = 0
    num_decode_rounds: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Share of the drafts that were accepted; 0 if there are none."""
        return self.num_accepted_tokens / self.num_drafted_tokens if self.num_drafted_tokens else 0.0

    @property
    def time_per_output_token(self) -> float:
        """Mean seconds between two tokens of a sequence (TPOT); 0 if there are none."""
        return self.decode_seconds / self.num_decode_rounds if self.num_decode_rounds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Generated tokens after each sequence's first, per second; 0 if there are none."""
        return self.num_decode_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens that were run, per second; 0 if there are none."""
        tokens = self.num_prompt_tokens - self.num_reused_tokens
        return tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, repr=False)
class GenerationResult(Displayed):
    """The outcome of one call. Lists are in prompt order.

    Attributes:
        texts: Generated text of each sequence.
        token_ids: Generated tokens of each sequence, without the prompt unless ``echo`` asks for it.
        finish_reasons: Why each sequence ended.
        logprobs: Per sequence, one entry per token, or None when not asked for.
        perf_metrics: Measurements over the whole call.
        seed: The seed that was used, also when none was given; None for greedy decoding.
        beam_scores: Per sequence, its normalized score, if beams were searched.
    """

    texts: list[str]
    token_ids: list[list[int]]
    finish_reasons: list[FinishReason]
    logprobs: list[list[TokenLogprob]] | None = None
    perf_metrics: PerfMetrics = field(default_factory=PerfMetrics)
    seed: int | None = None
    beam_scores: list[float] | None = None

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show: texts, why they ended, and how fast they came."""
        one = len(self.texts) == 1
        texts = {("text" if one else f"text {index}"): _shortened(text) for index, text in enumerate(self.texts)}
        return {
            **texts,
            "tokens": ", ".join(str(len(ids)) for ids in self.token_ids),
            "finish": ", ".join(self.finish_reasons),
            "decode": f"{self.perf_metrics.decode_tokens_per_second:.1f} tokens/s",
            "cache": in_bytes(self.perf_metrics.cache_bytes),
        }

    @property
    def text(self) -> str:
        """The first sequence's text."""
        return self.texts[0]


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is.

    Attributes:
        token_ids: The tokens of the continuation.
        token_logprobs: Natural log of the probability of each, given all before it.
        logprob: The sum of their log-probabilities.
        is_greedy: Whether each is the likeliest token, so that greedy decoding gives this continuation.
    """

    token_ids: list[int]
    token_logprobs: list[float]
    logprob: float
    is_greedy: bool


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
