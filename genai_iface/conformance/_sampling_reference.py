# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Normative sampling once more, plainly: what level 4 holds generation against. Not shared with the loop.

Order: logits to float64, bias, repetition penalty, temperature, top-k, top-p, min-p; then the first token
whose running sum of probabilities, in ascending id order, exceeds u. u is the first output of Philox4x64-10 with the
key (seed, sequence index) and the counter (position, 0, 0, 0), its top 53 bits divided by 2**53.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Settings", "expected_token", "law", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parameters that the kit draws with."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    bias: dict[int, float] = field(default_factory=dict)


def law(logits: ArrayLike, tokens: Sequence[int], settings: Settings) -> NDArray[np.float64]:
    """The probabilities (V,) of the next token."""
    scores = [float(value) for value in np.asarray(logits, np.float64)]
    for token, bias in settings.bias.items():
        scores[token] += bias
    for token in set(tokens):
        factor = settings.repetition_penalty
        scores[token] = scores[token] * factor if scores[token] < 0 else scores[token] / factor
    scores = [score / settings.temperature for score in scores]
    kept = list(range(len(scores)))
    if settings.top_k:
        limit = sorted(scores, reverse=True)[min(settings.top_k, len(scores)) - 1]
        kept = [token for token in kept if scores[token] >= limit]
    if settings.top_p < 1:
        probabilities = _softmax([scores[token] for token in kept])
        order = sorted(range(len(kept)), key=lambda place: (-probabilities[place], kept[place]))
        total, nucleus = 0.0, []
        for place in order:
            if total >= settings.top_p:
                break
            total += probabilities[place]
            nucleus.append(kept[place])
        kept = sorted(nucleus)
    if settings.min_p:
        best = max(scores[token] for token in kept)
        kept = [token for token in kept if math.exp(scores[token] - best) >= settings.min_p]
    result = np.zeros(len(scores))
    result[kept] = _softmax([scores[token] for token in kept])
    return result


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
