# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Processors: what changes the scores of a row before a token is chosen, greedy or not.

Each takes the row of scores first, a private float64 copy of the logits that it changes in place.
They run in the order of this file, which is that of Transformers (``logit_bias`` stands where
``sequence_bias`` stands there, the presence and frequency penalties beside the repetition penalty).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.generation.hooks import LogitsHook

__all__ = [
    "Processor",
    "add_bias",
    "as_processor",
    "ban_repeated_ngrams",
    "ban_tokens",
    "ban_words",
    "build_processors",
    "penalize_frequency",
    "penalize_repetition",
]

Scores: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = NDArray[np.int64]

Processor: TypeAlias = Callable[[Scores, Tokens, int], None]
"""Changes scores (V,) in place, given the sequence (T,) and how many of its last tokens are new."""


def as_processor(hook: LogitsHook, /) -> Processor:
    """A caller's function as a processor.

    The processor raises InvalidInputError, with the function's name, if it gives another shape, no numbers, NaN or
    +inf. What the model itself gave is left to who judges logits.
    """

    def process(scores: Scores, tokens: Tokens, new: int) -> None:
        was_wrong = _first_wrong(scores) is not None
        given = hook(tokens.copy(), scores)
        if given is not None:
            changed = np.asarray(given)
            if changed.shape != scores.shape or changed.dtype.kind not in "biuf":
                raise InvalidInputError(
                    f"The function {_name_of(hook)} of logits_processors gave {changed.dtype} of the shape "
                    f"{changed.shape}",
                    remedy=f"Return floats of the shape {scores.shape}, or change the scores in place and return None.",
                )
            scores[:] = changed
        wrong = None if was_wrong else _first_wrong(scores)
        if wrong is not None:
            raise InvalidInputError(
                f"The function {_name_of(hook)} of logits_processors gave {scores[wrong]} for the token {wrong}",
                remedy="Use -inf for what must not be chosen, and finite scores for the rest.",
            )

    return process


def _first_wrong(scores: Scores) -> int | None:
    """The first score that is NaN or +inf; -inf is legal."""
    wrong = ~(scores < np.inf)
    return int(wrong.argmax()) if wrong.any() else None


def _name_of(hook: object) -> str:
    """What a caller calls a function of theirs."""
    name = getattr(hook, "__qualname__", None) or type(hook).__qualname__
    return f"{name!r}"


def add_bias(scores: Scores, token_ids: Tokens, biases: Scores) -> None:
    """Adds to the scores of single tokens, each of which occurs once in ``token_ids``."""
    scores[token_ids] += biases


def penalize_repetition(scores: Scores, tokens: Tokens, penalty: float) -> None:
    """Divides the positive and multiplies the negative scores of all tokens that occurred, once each.

    Source: Keskar et al., CTRL, https://arxiv.org/abs/1909.05858, section 4.1.
    """
    seen = scores[tokens]
    # A token that occurs twice is written twice with the same value.
    scores[tokens] = np.where(seen < 0, seen * penalty, seen / penalty)


def penalize_frequency(scores: Scores, new_tokens: Tokens, presence: float, frequency: float) -> None:
    """Subtracts ``presence`` plus ``frequency`` per occurrence from the tokens that were generated."""
    token_ids, counts = np.unique(new_tokens, return_counts=True)
    scores[token_ids] -= presence + frequency * counts


def ban_repeated_ngrams(scores: Scores, tokens: Tokens, size: int) -> None:
    """Rules out every token that would complete an n-gram which the sequence already holds."""
    if len(tokens) < size:
        return
    windows = sliding_window_view(tokens, size)
    prefix = tokens[len(tokens) + 1 - size :]
    scores[windows[(windows[:, :-1] == prefix).all(axis=1), -1]] = -np.inf


def ban_words(scores: Scores, tokens: Tokens, words: Sequence[Tokens]) -> None:
    """Rules out the last token of each word whose other tokens end the sequence."""
    for word in words:
        prefix = len(word) - 1
        if prefix <= len(tokens) and np.array_equal(tokens[len(tokens) - prefix :], word[:-1]):
            scores[word[-1]] = -np.inf


def ban_tokens(scores: Scores, token_ids: Tokens) -> None:
    """Rules out tokens."""
    scores[token_ids] = -np.inf


def build_processors(config: GenerationConfig, /, *, vocab_size: int, stop_ids: Sequence[int]) -> list[Processor]:
    """The processors that a configuration asks for, in their order; neutral ones are left out.

    Args:
        config: The configuration that names the processors' parameters.
        vocab_size: V, for checking token ids.
        stop_ids: The tokens that end a sequence.

    Raises:
        InvalidInputError: ``logit_bias`` or ``bad_words_ids`` names a token that the model lacks.
    """
    processors: list[Processor] = []
    if config.logit_bias:
        bias_ids = _known_ids("logit_bias", config.logit_bias, vocab_size)
        biases = np.array(list(config.logit_bias.values()), dtype=np.float64)
        processors.append(lambda scores, tokens, new: add_bias(scores, bias_ids, biases))
    if config.repetition_penalty != 1:
        processors.append(lambda scores, tokens, new: penalize_repetition(scores, tokens, config.repetition_penalty))
    if config.presence_penalty or config.frequency_penalty:
        presence, frequency = config.presence_penalty, config.frequency_penalty
        processors.append(
            lambda scores, tokens, new: penalize_frequency(scores, tokens[len(tokens) - new :], presence, frequency)
        )
    if config.no_repeat_ngram_size:
        size = config.no_repeat_ngram_size
        processors.append(lambda scores, tokens, new: ban_repeated_ngrams(scores, tokens, size))
    # As in Transformers, a word that is just a stop token stays legal: a sequence must be able to end.
    words = [word for word in config.bad_words_ids if not (len(word) == 1 and word[0] in stop_ids)]
    if words:
        word_ids = [_known_ids("bad_words_ids", word, vocab_size) for word in words]
        processors.append(lambda scores, tokens, new: ban_words(scores, tokens, word_ids))
    if config.min_new_tokens and stop_ids:
        ends = np.array([token for token in stop_ids if token < vocab_size], dtype=np.int64)
        minimum = config.min_new_tokens

        def hold_open(scores: Scores, tokens: Tokens, new: int) -> None:
            if new < minimum:
                ban_tokens(scores, ends)

        processors.append(hold_open)
    return processors


def _known_ids(field: str, token_ids: Iterable[int], vocab_size: int) -> Tokens:
    ids = list(token_ids)
    if max(ids) >= vocab_size:
        raise InvalidInputError(
            f"{field} names the token {max(ids)}, the model has {vocab_size}",
            remedy=f"Use token ids from 0 to {vocab_size - 1}.",
        )
    return np.array(ids, dtype=np.int64)
