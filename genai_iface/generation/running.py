# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One sequence while it is generated: from logits to a token, its text, and why it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genai_iface.generation.plan import SequencePlan
from genai_iface.generation.sampling.sampler import log_probability
from genai_iface.generation.sequence import TokenSequence
from genai_iface.generation.text.stopping import StopHook, length_limit
from genai_iface.generation.text.stream import TextStream
from genai_iface.protocols import Tokenizer
from genai_iface.results import FinishReason, TokenLogprob

__all__ = ["RunningSequence"]


class RunningSequence:
    """What happens to one sequence between two steps of the model, whoever runs the steps.

    Args:
        plan: How to generate it.
        index: The sequence's index in the call, for its draws.
        capacity: Tokens that it may have.
        tokenizer: Makes its text; None for none.
        continues_text: As for ``ModelGenerator``.
        stopping_criteria: The caller's own.

    Attributes:
        plan: How it is generated.
        state: Its tokens, and the logits that follow them.
        capacity: Tokens that it may have.
    """

    def __init__(
        self,
        plan: SequencePlan,
        *,
        index: int,
        capacity: int,
        tokenizer: Tokenizer | None,
        continues_text: bool = True,
        stopping_criteria: Sequence[StopHook] = (),
    ) -> None:
        self.plan = plan
        self.state = TokenSequence()
        self.capacity = capacity
        self._index = index
        self._tokenizer = tokenizer
        self._continues_text = continues_text
        self._stopping_criteria = tuple(stopping_criteria)
        self._stream: TextStream | None = None
        # Text that was not taken yet, and all text of the turn for the caller's criteria.
        self._text = ""
        self._said = ""
        self._deadline_start = 0.0

    # Turns

    def start_clock(self) -> None:
        """The time that ``max_time`` limits begins now."""
        self._deadline_start = time.perf_counter()

    def append_input(self, token_ids: NDArray[np.int64]) -> None:
        """Begins a turn with int64 (T,) tokens, T at least 1."""
        self.state.append_input(token_ids)
        self.state.finish_reason = None
        self.new_text()
        self.end_if_full()
        if not self.is_done and self.plan.is_over(()):
            self.end("stop")

    def new_text(self) -> None:
        """Starts the text of a turn; after a rewind the tokens that are left have been given out."""
        if self._tokenizer is None:
            return
        state = self.state
        context = state.tokens[: state.num_input].tolist() if self._continues_text else ()
        self._stream = TextStream(self._tokenizer, self.plan.stop_strings, context)
        self._said = "".join([self._stream.push(token)[0] for token in state.new_tokens.tolist()])
        self._text = ""

    def take_text(self) -> str:
        """The text that was not taken yet."""
        text, self._text = self._text, ""
        return text

    # Tokens

    def draw(self, logits: NDArray[np.float32], tokens: NDArray[np.int64], num_new: int) -> int:
        """The token that follows ``tokens`` (T,), of which the last ``num_new`` are new, under logits (V,)."""
        return self.plan.sampler.choose(logits, tokens, num_new, self._index)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Chooses the next token from its logits (V,) and appends it."""
        state, plan = self.state, self.plan
        token = self.draw(logits, state.tokens, state.num_new)
        if plan.config.logprobs is not None:
            state.logprobs.append(log_probability(logits, token, plan.config.logprobs))
        state.append_new(token)
        return token

    def settle(self, token: int) -> None:
        """Adds the text of the token that was chosen last and ends the sequence if something says so."""
        plan = self.plan
        is_stop = token in plan.stop_ids
        if self._stream is not None and (not is_stop or plan.config.include_stop_str_in_output):
            text, found = self._stream.push(token)
            self._text += text
            self._said += text if self._stopping_criteria else ""
            is_stop |= found
        for criterion in self._stopping_criteria:
            is_stop |= bool(criterion(self.state.tokens.copy(), self._said))
        if is_stop or plan.is_over(self.state.new_tokens):
            self.end("stop")
        else:
            self.end_if_full()

    # The end

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.state.finish_reason is not None

    @property
    def is_late(self) -> bool:
        """Whether ``max_time`` is over."""
        limit = self.plan.config.max_time
        return limit is not None and time.perf_counter() - self._deadline_start >= limit

    @property
    def length_limit(self) -> int:
        """The most tokens that it may have in this turn."""
        return length_limit(self.plan.config, self.state.num_input, self.capacity)

    def end(self, reason: FinishReason) -> None:
        """Ends it and gives out the text that was held back."""
        self.state.finish_reason = reason
        if self._stream is not None:
            self._text += self._stream.finish()

    def end_if_full(self) -> None:
        """Ends it if it has all the tokens that it may have."""
        if len(self.state) >= self.length_limit:
            self.end("length")

    # Log-probabilities of the prompt

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the logits of its prompt's positions are still asked for."""
        config, state = self.plan.config, self.state
        return config.echo and config.logprobs is not None and len(state.prompt_logprobs) < state.num_prompt

    def observe(self, start: int, logits: NDArray[np.float32]) -> None:
        """Keeps the log-probabilities of a prompt while it runs, from the logits (n, V) after ``start`` and on."""
        num_top, state = self.plan.config.logprobs, self.state
        if num_top is None or not self.wants_prompt_logprobs:
            return
        known, tokens = state.prompt_logprobs, state.tokens
        if not known:
            known.append(TokenLogprob(int(tokens[0]), float("nan")))
        for position, row in enumerate(logits, start=start + 1):
            if position == len(known) and position < state.num_prompt:
                known.append(log_probability(row, int(tokens[position]), num_top))

    def prompt_logprobs(self) -> list[TokenLogprob]:
        """As ``ModelGenerator.get_prompt_logprobs``."""
        config, state = self.plan.config, self.state
        if not config.echo or config.logprobs is None:
            return []
        known = state.prompt_logprobs
        rest = state.tokens[len(known) : state.num_prompt].tolist()
        return [*known, *(TokenLogprob(token, float("nan")) for token in rest)]
