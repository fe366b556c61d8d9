# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The beam search for one prompt: its groups of beams, what ends a sequence, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.generation.beam.group import Beam, BeamGroup, Continuation
from genai_iface.generation.hooks import GenerationHooks
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.generation.sampling.sampler import log_probability, make_sampler
from genai_iface.generation.text.stopping import length_limit, stop_strings_of
from genai_iface.generation.text.stream import TextStream, context_tail
from genai_iface.protocols import Tokenizer
from genai_iface.results import Chunk, FinishReason, TokenLogprob

__all__ = ["Hypothesis", "PromptSearch"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A sequence that beam search returns.

    Attributes:
        token_ids: Its new tokens.
        score: Sum of their log-probabilities after the processors, divided by length ** length_penalty.
        finish_reason: Why it ended.
        logprobs: One entry per token, if the configuration asks for them.
        has_stop_token: Whether the last token is a stop token, which has no text.
    """

    token_ids: list[int]
    score: float
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    has_stop_token: bool = False


class PromptSearch:
    """The search for one prompt.

    Args:
        config: How to continue it.
        prompt: (T,) token ids.
        hooks: The caller's own functions and rules.
        vocab_size: V, the columns of the logits.
        capacity: Tokens that a sequence may have.
        tokenizer: Makes text; None if there is none.
        continues_text: Whether the text goes on where the prompt ends.

    Attributes:
        config: How it is continued.
        prompt: (T,) token ids.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: NDArray[np.int64],
        *,
        hooks: GenerationHooks,
        vocab_size: int,
        capacity: int,
        tokenizer: Tokenizer | None,
        continues_text: bool,
    ) -> None:
        self.config = config
        self.prompt = prompt
        self._sampler = make_sampler(config, hooks, vocab_size=vocab_size, tokenizer=tokenizer)
        self._stop_strings = stop_strings_of(config)
        self._criteria = hooks.stopping_criteria
        self._tokenizer = tokenizer
        self._context = context_tail(tokenizer, prompt.tolist()) if continues_text and tokenizer is not None else []
        self._limit = length_limit(config, len(prompt), capacity) - len(prompt)
        self._num_new = 0
        # Set if the search ends before its first step.
        self._nothing: FinishReason | None = None if self._limit > 0 else "length"
        self._groups: list[BeamGroup[Hypothesis]] = [
            BeamGroup(
                config.num_beams // config.num_beam_groups,
                num_stop_ids=len(self._sampler.stop_ids),
                length_penalty=config.length_penalty,
                early_stopping=config.early_stopping,
                max_new_tokens=self._limit,
            )
            for _ in range(config.num_beam_groups)
        ]

    @property
    def is_done(self) -> bool:
        """Whether it has its results."""
        return self._nothing is not None or all(group.is_done for group in self._groups)

    def begin(self, row: int) -> None:
        """Lets all groups start from the row that holds the prompt."""
        for group in self._groups:
            group.beams = [Beam(row, 0.0)]

    def step(self, sequences: Sequence[TokenSequence], start: int) -> tuple[list[int], list[TokenSequence]]:
        """Advances every group by a token.

        Args:
            sequences: One per row, with logits.
            start: The row that the first beam will have afterwards.

        Returns:
            The present row of each beam that goes on, and its sequence with the new token.
        """
        self._num_new += 1
        rows: list[int] = []
        grown: list[TokenSequence] = []
        for group in self._groups:
            if group.is_done:
                continue
            log_probs = np.stack([self._log_probs(sequences[beam.row]) for beam in group.beams])
            if self.config.diversity_penalty and grown:
                # What the groups before this one have just chosen.
                counts = np.bincount([int(one.tokens[-1]) for one in grown], minlength=log_probs.shape[1])
                log_probs -= self.config.diversity_penalty * counts
            going = group.advance(
                log_probs,
                self._num_new,
                ends=lambda row, token: self._end(sequences[row], token),
                keep=self._keeper(group, sequences),
            )
            group.beams = [Beam(start + len(rows) + at, one.score) for at, one in enumerate(going)]
            rows += [one.row for one in going]
            grown += [self._grown(sequences[one.row], one.token) for one in going]
        return rows, grown

    def interrupt(self, sequences: Sequence[TokenSequence], reason: FinishReason) -> None:
        """Ends the search with the sequences that there are."""
        if not self._num_new:
            self._nothing = self._nothing or reason
        for group in self._groups:
            if not group.is_done:
                group.is_done = True
                for beam in group.beams:
                    sequence = sequences[beam.row]
                    score = group.normalized(beam.score, max(self._num_new, 1))
                    group.finish(score, _hypothesis(sequence, score, reason))

    def results(self) -> list[Hypothesis]:
        """The best ``num_return_sequences``, best first, of all groups together."""
        count = self.config.num_return_sequences
        if self._nothing is not None:
            return [Hypothesis([], 0.0, self._nothing)] * count
        found = [hypothesis for group in self._groups for hypothesis in group.finished]
        if len(found) < count:
            raise InvalidInputError(
                f"Only {len(found)} sequences are possible, num_return_sequences={count}",
                remedy="Ask for fewer, or loosen the constraint or bad_words_ids.",
            )
        return sorted(found, key=lambda one: -one.score)[:count]

    def chunks(self) -> list[Chunk]:
        """One for each result."""
        return [self._chunk(found) for found in self.results()]

    def _chunk(self, found: Hypothesis) -> Chunk:
        text, ids = "", found.token_ids
        if self._tokenizer is not None:
            stream = TextStream(self._tokenizer, self._stop_strings, self._context)
            shown = ids[:-1] if found.has_stop_token and not self.config.include_stop_str_in_output else ids
            text = "".join([stream.push(token)[0] for token in shown]) + stream.finish()
        logprobs = found.logprobs if self.config.logprobs is not None else None
        return Chunk(text, tuple(ids), logprobs, finish_reason=found.finish_reason, beam_score=found.score)

    def _log_probs(self, sequence: TokenSequence) -> NDArray[np.float64]:
        """(V,) of the next token, after the processors."""
        scores = cast("NDArray[np.float32]", sequence.logits).astype(np.float64)
        self._sampler.check(scores)
        scores -= scores.max()
        scores -= np.log(np.exp(scores).sum())
        self._sampler.process(scores, sequence.tokens, sequence.num_new)
        return scores

    def _end(self, sequence: TokenSequence, token: int) -> FinishReason | None:
        if token in self._sampler.stop_ids or self._sampler.is_over([*sequence.new_tokens.tolist(), token]):
            return "stop"
        if self._stop_strings or self._criteria:
            new = [*sequence.new_tokens.tolist(), token]
            text = self._text(new)
            if self._stop_strings and (self._is_stopped(text) or self._is_stopped(self._text(new, is_whole=True))):
                return "stop"
            tokens = np.append(sequence.tokens, token)
            if any(criterion(tokens.copy(), text) for criterion in self._criteria):
                return "stop"
        return "length" if self._num_new >= self._limit else None

    def _is_stopped(self, text: str) -> bool:
        return self._stop_strings.find_end(text) is not None

    def _text(self, new: list[int], *, is_whole: bool = False) -> str:
        """The text of new tokens; whole, it has that of special tokens too, which may be a stop string."""
        if self._tokenizer is None:
            return ""
        size = self._tokenizer.vocab_size
        # Models pad their vocabulary; such an id has no text.
        head = [token for token in self._context if token < size]
        whole = [*head, *(token for token in new if token < size)]
        before = self._tokenizer.decode(head, skip_special_tokens=not is_whole).rstrip("\ufffd")
        return self._tokenizer.decode(whole, skip_special_tokens=not is_whole)[len(before) :]

    def _grown(self, sequence: TokenSequence, token: int) -> TokenSequence:
        grown = sequence.copy()
        if self.config.logprobs is not None:
            logits = cast("NDArray[np.float32]", sequence.logits)
            grown.logprobs.append(log_probability(logits, token, self.config.logprobs))
        grown.append_new(token)
        return grown

    def _keeper(
        self, group: BeamGroup[Hypothesis], sequences: Sequence[TokenSequence]
    ) -> Callable[[Continuation], Hypothesis]:
        def keep(one: Continuation) -> Hypothesis:
            score = group.normalized(one.score, self._num_new)
            found = _hypothesis(self._grown(sequences[one.row], one.token), score, one.reason or "stop")
            return replace(found, has_stop_token=one.token in self._sampler.stop_ids)

        return keep


def _hypothesis(sequence: TokenSequence, score: float, reason: FinishReason) -> Hypothesis:
    return Hypothesis(sequence.new_tokens.tolist(), score, reason, tuple(sequence.logprobs))
