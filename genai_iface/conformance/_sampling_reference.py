# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Normative sampling once more, plainly: what level 4 holds generation against. Not shared with the loop.

Order: logits to float64, bias, repetition, presence and frequency penalty, n-grams, bad words, minimum length; then
temperature, top-k, top-p, min-p, typical; then the first token whose running sum of probabilities, in ascending id
order, exceeds u. u is the first output of Philox4x64-10 with the key (seed, sequence index) and the counter (position,
0, 0, 0), its top 53 bits divided by 2**53.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Settings", "expected_token", "law", "processed", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parameters that the kit chooses tokens with, named as in ``GenerationConfig``."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    min_new_tokens: int = 0
    logit_bias: dict[int, float] = field(default_factory=dict)


def processed(
    logits: ArrayLike, tokens: Sequence[int], settings: Settings, *, num_new: int = 0, stops: Collection[int] = ()
) -> list[float]:
    """The scores (V,) after the processors.

    Args:
        logits: (V,), as the model gives them.
        tokens: The sequence so far, with its prompt.
        settings: The parameters.
        num_new: How many of its tokens are generated.
        stops: The stop tokens.
    """
    scores = [float(value) for value in np.asarray(logits, np.float64)]
    for token, bias in settings.logit_bias.items():
        scores[token] += bias
    for token in set(tokens):
        factor = settings.repetition_penalty
        scores[token] = scores[token] * factor if scores[token] < 0 else scores[token] / factor
    said = list(tokens)[len(tokens) - num_new :]
    for token in set(said):
        scores[token] -= settings.presence_penalty + settings.frequency_penalty * said.count(token)
    for token in _banned(tokens, settings, stops):
        scores[token] = -math.inf
    if num_new < settings.min_new_tokens:
        for token in stops:
            scores[token] = -math.inf
    return scores


def _banned(tokens: Sequence[int], settings: Settings, stops: Collection[int]) -> set[int]:
    """What would repeat an n-gram or complete a bad word."""
    size, so_far = settings.no_repeat_ngram_size, tuple(tokens)
    words = {tuple(word) for word in settings.bad_words_ids if not (len(word) == 1 and word[0] in stops)}
    if size:
        words |= {so_far[at : at + size] for at in range(len(so_far) - size + 1)}
    return {word[-1] for word in words if so_far[len(so_far) - len(word) + 1 :] == word[:-1] or len(word) == 1}


def law(
    logits: ArrayLike, tokens: Sequence[int], settings: Settings, *, num_new: int = 0, stops: Collection[int] = ()
) -> NDArray[np.float64]:
    """The probabilities (V,) of the next token; arguments as ``processed``."""
    scores = processed(logits, tokens, settings, num_new=num_new, stops=stops)
    best = max(scores)
    scores = [(score - best) / settings.temperature for score in scores]
    kept = [token for token in range(len(scores)) if scores[token] > -math.inf]
    if settings.top_k:
        limit = sorted(scores, reverse=True)[min(settings.top_k, len(scores)) - 1]
        kept = [token for token in kept if scores[token] >= limit]
    if settings.top_p < 1:
        probabilities = dict(zip(kept, _softmax([scores[token] for token in kept]), strict=True))
        kept = sorted(_shortest(sorted(kept, key=lambda at: (-scores[at], at)), probabilities, settings.top_p))
    if settings.min_p:
        best = max(scores[token] for token in kept)
        kept = [token for token in kept if math.exp(scores[token] - best) >= settings.min_p]
    if settings.typical_p < 1:
        kept = _typical(kept, scores, settings.typical_p)
    result = np.zeros(len(scores))
    result[kept] = _softmax([scores[token] for token in kept])
    return result


def _typical(kept: Sequence[int], scores: Sequence[float], mass: float) -> list[int]:
    """The tokens whose surprise is nearest to the expected one."""
    probabilities = dict(zip(kept, _softmax([scores[token] for token in kept]), strict=True))
    entropy = -math.fsum(p * math.log(p) for p in probabilities.values() if p)
    distance = {token: abs(-math.log(p) - entropy) if p else math.inf for token, p in probabilities.items()}
    nearest = _shortest(sorted(kept, key=lambda at: (distance[at], at)), probabilities, mass)
    farthest = max(distance[token] for token in nearest)
    return [token for token in kept if distance[token] <= farthest]


def _shortest(order: Sequence[int], probabilities: dict[int, float], mass: float) -> list[int]:
    total, taken = 0.0, []
    for token in order:
        if total >= mass:
            break
        total += probabilities[token]
        taken.append(token)
    return taken


def uniform(seed: int, index: int, position: int) -> float:
    """The random number for one token of one sequence, by Philox4x64-10 written out.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    mask = 2**64 - 1
    # NumPy counts up before its first output.
    x = [(position + 1) & mask, 0, 0, 0]
    key = [seed & mask, index & mask]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(second >> 64) ^ x[1] ^ key[0], second & mask, (first >> 64) ^ x[3] ^ key[1], first & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return float((x[0] >> 11) * 2.0**-53)


def expected_token(probabilities: NDArray[np.float64], u: float, slack: float) -> int | None:
    """The token that u picks; None if u is closer than ``slack`` to the border of another."""
    cumulative = np.cumsum(probabilities)
    picks = {
        int(np.searchsorted(cumulative, min(max(value, 0.0), cumulative[-1] * (1 - 1e-15)), "right"))
        for value in (u - slack, u, u + slack)
    }
    return picks.pop() if len(picks) == 1 else None


def _softmax(scores: Sequence[float]) -> list[float]:
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
