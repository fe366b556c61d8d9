# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing a token from a row of logits. Normative: equal logits give equal tokens on every backend.

1. The logits become float64; processors change them (``processors.py``).
2. Greedy: the highest score, the lowest token id among equals.
3. Otherwise the scores are divided by the temperature and filtered (``filters.py``), and one number u
   in [0, 1) picks a token: survivors in ascending id order, softmax weights in float64, their running
   sum c; the token is the first with c > u * (last c).
4. u is the top 53 bits of the first output of Philox4x64-10 as NumPy implements it, with the key (seed, index of
   the sequence in the call) and the counter (position of the new token in its sequence, 0, 0, 0), divided by 2**53.
   So a draw depends on nothing else in the batch and on no draw before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.config import GenerationConfig
from genai_iface.errors import BackendError, InvalidInputError
from genai_iface.generation.constraints import Constraint, ConstraintProcessor, constraint_of
from genai_iface.generation.hooks import GenerationHooks, LogitsHook
from genai_iface.generation.sampling import filters
from genai_iface.generation.sampling.processors import as_processor, build_processors
from genai_iface.protocols import Tokenizer
from genai_iface.results import TokenLogprob

__all__ = ["Sampler", "draw", "log_probability", "make_sampler", "new_seed", "uniform"]

Scores: TypeAlias = NDArray[np.float64]


class Sampler:
    """Chooses tokens as one configuration asks, and knows which of them end a sequence.

    Args:
        config: The configuration that says how tokens are chosen.
        vocab_size: V, the columns of the logits.
        stop_ids: The tokens that end a sequence.
        seed: Of the draws; ignored when the configuration is greedy.
        constraint: What the output may be; it runs after the processors of the configuration.
        hooks: The caller's own processors; they run after all others.

    Attributes:
        config: The configuration that says how tokens are chosen.
        stop_ids: The tokens that end a sequence.

    Raises:
        InvalidInputError: The configuration names a token that the model lacks.
    """

    def __init__(
        self,
        config: GenerationConfig,
        /,
        *,
        vocab_size: int,
        stop_ids: Sequence[int],
        seed: int,
        constraint: ConstraintProcessor | None = None,
        hooks: Sequence[LogitsHook] = (),
    ) -> None:
        self.config = config
        self.stop_ids = frozenset(stop_ids)
        self._constraint = constraint
        self._seed = seed
        self._temperature = config.temperature
        self._processors = build_processors(config, vocab_size=vocab_size, stop_ids=stop_ids)
        self._processors += [] if constraint is None else [constraint]
        self._processors += map(as_processor, hooks)
        self._filters = filters.build_filters(config) if config.samples else None

    def choose(self, logits: NDArray[np.float32], tokens: NDArray[np.int64], num_new: int, index: int) -> int:
        """Chooses the next token of one sequence.

        Args:
            logits: (V,), not changed.
            tokens: (T,), the sequence so far.
            num_new: How many of its last tokens were generated.
            index: The sequence's index in the call.

        Raises:
            BackendError: The logits hold NaN or infinity.
            InvalidInputError: The processors ruled out every token.
        """
        if not self._processors and self._filters is None:
            token = int(logits.argmax())
            _check_best(float(logits[token]), processed=False)
            return token
        scores = logits.astype(np.float64)
        _check_best(float(scores.max()), processed=False)
        for processor in self._processors:
            processor(scores, tokens, num_new)
        if self._filters is None:
            token = int(scores.argmax())
            _check_best(float(scores[token]), processed=True)
            return token
        survivors, weights = self._survivors(scores)
        return draw(survivors, weights, uniform(self._seed, index, len(tokens)))

    def is_over(self, new_tokens: ArrayLike, /) -> bool:
        """Whether the constraint, if there is one, lets nothing follow these tokens of the turn."""
        return self._constraint is not None and self._constraint.is_over(new_tokens)

    def process(self, scores: Scores, tokens: NDArray[np.int64], num_new: int) -> None:
        """Changes scores (V,) in place as ``choose`` would before it filters them."""
        for processor in self._processors:
            processor(scores, tokens, num_new)

    def check(self, scores: Scores) -> None:
        """Refuses logits (V,) that hold NaN or infinity.

        Raises:
            BackendError: They do.
        """
        _check_best(float(scores.max()), processed=False)

    def probabilities(self, logits: NDArray[np.float32], tokens: NDArray[np.int64], num_new: int) -> Scores:
        """The law (V,) that ``choose`` draws from; for greedy decoding all of it is on one token."""
        law = np.zeros(len(logits))
        if self._filters is None:
            law[self.choose(logits, tokens, num_new, 0)] = 1
            return law
        scores = logits.astype(np.float64)
        for processor in self._processors:
            processor(scores, tokens, num_new)
        survivors, weights = self._survivors(scores)
        law[slice(None) if survivors is None else survivors] = weights / weights.sum()
        return law

    def _survivors(self, scores: Scores) -> tuple[NDArray[np.intp] | None, Scores]:
        """Token ids that stay in the draw, None for all, and their weights. Overwrites the scores."""
        best = float(scores.max())
        _check_best(best, processed=True)
        # Subtracting the maximum first keeps tiny temperatures from overflowing; the law is the same.
        scores -= best
        scores /= self._temperature
        survivors: NDArray[np.intp] | None = None
        for keep in self._filters or ():
            kept = keep(scores)
            survivors = kept if survivors is None else survivors[kept]
            scores = scores[kept]
        # In place: a second array of this size costs more, in page faults, than the arithmetic.
        scores -= scores.max()
        return survivors, np.exp(scores, out=scores)


def make_sampler(
    config: GenerationConfig,
    hooks: GenerationHooks,
    *,
    vocab_size: int,
    eos_token_ids: Sequence[int] = (),
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Sampler:
    """The sampler of one sequence.

    Args:
        config: The configuration that says how tokens are chosen.
        hooks: The caller's own functions and rules.
        vocab_size: V, the columns of the logits.
        eos_token_ids: What ends a sequence if the configuration itself names nothing.
        seed: Of the draws.
        tokenizer: For the rules that the configuration itself names.

    Raises:
        InvalidInputError: The configuration names a token that the model lacks, or there are two rules.
    """
    ends = () if config.ignore_eos else config.eos_token_ids or tuple(eos_token_ids)
    stop_ids = frozenset((*ends, *config.stop_token_ids))
    rule = _rule_of(config, hooks)
    follower = None
    if rule is not None:
        state = rule.start(tokenizer, vocab_size)
        follower = ConstraintProcessor(state, stop_ids=stop_ids, vocab_size=vocab_size)
    return Sampler(
        config,
        vocab_size=vocab_size,
        stop_ids=sorted(stop_ids),
        seed=seed,
        constraint=follower,
        hooks=hooks.logits_processors,
    )


def new_seed() -> int:
    """A seed that nobody can foretell, from 0 to 2**63 - 1 so that every JSON reader keeps it."""
    return int.from_bytes(os.urandom(8)) >> 1


def draw(survivors: NDArray[np.intp] | None, weights: Scores, u: float) -> int:
    """Inverse of the cumulative distribution.

    Args:
        survivors: (n,) ascending token ids, or None for 0..n - 1.
        weights: (n,) at least 0, not all 0.
        u: 0 <= u < 1.
    """
    cumulative = np.cumsum(weights)
    position = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    if position == len(weights):
        # u * total was rounded up to the total: the last token that has any weight.
        position = int(np.flatnonzero(weights)[-1])
    return position if survivors is None else int(survivors[position])


def uniform(seed: int, index: int, position: int) -> float:
    """The random number in [0, 1) for one token of one sequence."""
    generator = np.random.Philox(key=seed | index << 64, counter=position)
    return (int(generator.random_raw()) >> 11) * 2.0**-53


def log_probability(logits: NDArray[np.float32], token: int, num_top: int) -> TokenLogprob:
    """The log-probability of a token, and the likeliest ``num_top`` tokens, under unprocessed logits (V,)."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        best = filters.keep_top_k(scores, num_top)
        order = best[np.argsort(-scores[best], kind="stable")][:num_top]
        top = tuple((int(other), float(scores[other])) for other in order)
    return TokenLogprob(int(token), float(scores[token]), top)


def _rule_of(config: GenerationConfig, hooks: GenerationHooks) -> Constraint | None:
    own = constraint_of(config)
    if own is not None and hooks.constraint is not None:
        raise InvalidInputError(f"{own.kind} and constraint are both given", remedy="Give one of them.")
    return own or hooks.constraint


def _check_best(best: float, *, processed: bool) -> None:
    # The maximum is NaN if anything is.
    if -np.inf < best < np.inf:
        return
    if processed and best == -np.inf:
        raise InvalidInputError(
            "Every token is ruled out by bad_words_ids, no_repeat_ngram_size, logit_bias, min_new_tokens, a "
            "constraint or a function of logits_processors",
            remedy="Loosen one of them.",
        )
    raise BackendError(
        f"The model's logits are not usable: their maximum is {best}",
        remedy="Check the model's weights; in float16 a value may have overflowed: try a float32 model.",
    )
