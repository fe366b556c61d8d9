# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One sequence while it is generated: from logits to a token, its text, its chunks, and why it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genai_iface.generation.hooks import StopHook
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.generation.sampling.sampler import Sampler, log_probability
from genai_iface.generation.text.prompts import decode_prompt
from genai_iface.generation.text.stopping import length_limit, stop_strings_of
from genai_iface.generation.text.stream import TextStream
from genai_iface.protocols import Tokenizer
from genai_iface.results import Chunk, FinishReason, TokenLogprob

__all__ = ["RunningSequence"]


class RunningSequence(TokenSequence):
    """What happens to one sequence between two steps of the model, whoever runs the steps.

    Args:
        sampler: Chooses its tokens.
        index: The sequence's index in the call, for its draws and its chunks.
        capacity: Tokens that it may have.
        tokenizer: Makes its text; None for none.
        continues_text: As for ``ModelGenerator``.
        stopping_criteria: The caller's own.

    Attributes:
        config: How it is generated.
        capacity: Tokens that it may have.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        index: int,
        capacity: int,
        tokenizer: Tokenizer | None,
        continues_text: bool = True,
        stopping_criteria: Sequence[StopHook] = (),
    ) -> None:
        super().__init__()
        self.config = sampler.config
        self.capacity = capacity
        self._sampler = sampler
        self._index = index
        self._tokenizer = tokenizer
        self._continues_text = continues_text
        self._stopping_criteria = tuple(stopping_criteria)
        self._stream: TextStream | None = None
        # Text that was not taken yet, and all text of the turn for the caller's criteria.
        self._text = ""
        self._said = ""
        self._deadline_start = 0.0
        # What chunks have shown of this turn.
        self._owes_echo = self.config.echo
        self._num_shown = 0
        self._num_shown_logprobs = 0
        self._has_given_all = False

    # Turns

    def start_clock(self) -> None:
        """The time that ``max_time`` limits begins now."""
        self._deadline_start = time.perf_counter()

    def append_input(self, token_ids: Sequence[int] | NDArray[np.int64]) -> None:
        """Begins a turn with (T,) tokens, T at least 1."""
        super().append_input(token_ids)
        self.finish_reason = None
        self.new_text()
        self.end_if_full()
        if not self.is_done and self._sampler.is_over(()):
            self.end("stop")

    def new_text(self) -> None:
        """Starts the text of a turn; after a rewind the tokens that are left have been given out."""
        self._num_shown, self._num_shown_logprobs = self.num_new, len(self.logprobs)
        self._has_given_all = False
        if self._tokenizer is None:
            return
        context = self.tokens[: self.num_input].tolist() if self._continues_text else ()
        self._stream = TextStream(self._tokenizer, stop_strings_of(self.config), context)
        self._said = "".join([self._stream.push(token)[0] for token in self.new_tokens.tolist()])
        self._text = ""

    # Tokens

    def draw(self, logits: NDArray[np.float32], tokens: NDArray[np.int64], num_new: int) -> int:
        """The token that follows ``tokens`` (T,), of which the last ``num_new`` are new, under logits (V,)."""
        return self._sampler.choose(logits, tokens, num_new, self._index)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Chooses the next token from its logits (V,) and appends it."""
        token = self.draw(logits, self.tokens, self.num_new)
        self.take(token, logits)
        return token

    def take(self, token: int, logits: NDArray[np.float32] | None = None) -> None:
        """Appends a token that was chosen from logits (V,), which are needed for log-probabilities only."""
        if self.config.logprobs is not None and logits is not None:
            self.logprobs.append(log_probability(logits, token, self.config.logprobs))
        self.append_new(token)

    def settle(self, token: int) -> None:
        """Adds the text of the token that was chosen last and ends the sequence if something says so."""
        is_stop = token in self._sampler.stop_ids
        if self._stream is not None and (not is_stop or self.config.include_stop_str_in_output):
            text, found = self._stream.push(token)
            self._text += text
            self._said += text if self._stopping_criteria else ""
            is_stop |= found
        for criterion in self._stopping_criteria:
            is_stop |= bool(criterion(self.tokens.copy(), self._said))
        if is_stop or self._sampler.is_over(self.new_tokens):
            self.end("stop")
        else:
            self.end_if_full()

    # The end

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    @property
    def is_late(self) -> bool:
        """Whether ``max_time`` is over."""
        limit = self.config.max_time
        return limit is not None and time.perf_counter() - self._deadline_start >= limit

    @property
    def room(self) -> int:
        """How many tokens it may still get in this turn."""
        return length_limit(self.config, self.num_input, self.capacity) - len(self)

    def end(self, reason: FinishReason) -> None:
        """Ends it and gives out the text that was held back."""
        self.finish_reason = reason
        if self._stream is not None:
            self._text += self._stream.finish()

    def end_if_full(self) -> None:
        """Ends it if it has all the tokens that it may have."""
        if self.room <= 0:
            self.end("length")

    def interrupt(self, *, is_cancelled: bool) -> None:
        """Ends it if it goes on although it was cancelled or is out of time."""
        if not self.is_done and (is_cancelled or self.is_late):
            self.end("cancelled" if is_cancelled else "time")

    # What it gives

    def take_text(self) -> str:
        """The text that was not taken yet."""
        text, self._text = self._text, ""
        return text

    @property
    def has_given_all(self) -> bool:
        """Whether the last chunk of the turn was taken."""
        return self._has_given_all

    def take_chunk(self) -> Chunk | None:
        """What came since the last chunk, or None while there is no text for one.

        Tokens without text yet wait for the chunk that has it; the last chunk has the reason of the end. A prompt
        that is echoed stands before the first text.
        """
        if self._has_given_all:
            return None
        text = self.take_text()
        if not text and not self.is_done:
            return None
        self._has_given_all = self.is_done
        tokens = self.new_tokens[self._num_shown :].tolist()
        logprobs = self.logprobs[self._num_shown_logprobs :]
        self._num_shown += len(tokens)
        self._num_shown_logprobs += len(logprobs)
        if self._owes_echo and self._tokenizer is not None:
            self._owes_echo = False
            prompt = self.tokens[: self.num_prompt].tolist()
            text = decode_prompt(self._tokenizer, prompt) + text
            tokens = [*prompt, *tokens]
            logprobs = [*self.whole_prompt_logprobs(), *logprobs]
        asks = self.config.logprobs is not None
        return Chunk(text, tuple(tokens), tuple(logprobs) if asks else None, self._index, self.finish_reason)

    # Log-probabilities of the prompt

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the logits of its prompt's positions are still asked for."""
        return self.config.echo and self.config.logprobs is not None and len(self.prompt_logprobs) < self.num_prompt

    def observe(self, start: int, logits: NDArray[np.float32]) -> None:
        """Keeps the log-probabilities of a prompt while it runs, from the logits (n, V) after ``start`` and on."""
        num_top = self.config.logprobs
        if num_top is None or not self.wants_prompt_logprobs:
            return
        known, tokens = self.prompt_logprobs, self.tokens
        if not known:
            known.append(TokenLogprob(int(tokens[0]), float("nan")))
        for position, row in enumerate(logits, start=start + 1):
            if position == len(known) and position < self.num_prompt:
                known.append(log_probability(row, int(tokens[position]), num_top))

    def whole_prompt_logprobs(self) -> list[TokenLogprob]:
        """As ``ModelGenerator.get_prompt_logprobs``."""
        if not self.config.echo or self.config.logprobs is None:
            return []
        known = self.prompt_logprobs
        rest = self.tokens[len(known) : self.num_prompt].tolist()
        return [*known, *(TokenLogprob(token, float("nan")) for token in rest)]
