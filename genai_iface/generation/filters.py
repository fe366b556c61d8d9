# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Filters: which tokens stay in the draw. They run only when tokens are drawn at random.

Each takes scores (n,), finite or -inf, and returns the ascending indices of those that it keeps, at
least one. The order is temperature, top-k, top-p, min-p, typical; each sees only what the one before
it left, and probabilities are those of the tokens that are left (as in Transformers).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["keep_min_p", "keep_top_k", "keep_top_p", "keep_typical"]

Scores: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]

# Below this size a plain partition is quicker than looking for a threshold first.
_SMALL = 4096
# The nucleus is looked for among this many tokens first; it rarely has more.
_FIRST_GUESS = 128


def keep_top_k(scores: Scores, k: int) -> Indices:
    """The k highest scores, and those that tie with the last of them."""
    candidates = _at_least_largest(scores, k)
    if len(candidates) <= k:
        return candidates
    among = scores[candidates]
    kept: Indices = candidates[among >= np.partition(among, -k)[-k]]
    return kept


def keep_top_p(scores: Scores, p: float) -> Indices:
    """The smallest set of likeliest tokens whose probabilities reach p; ties: the lowest index first.

    Source: Holtzman et al., https://arxiv.org/abs/1904.09751.
    """
    weights = np.exp(scores - scores.max())
    total = weights.sum()
    guess = _FIRST_GUESS
    while True:
        candidates = _at_least_largest(scores, guess)
        order = candidates[np.argsort(-scores[candidates], kind="stable")]
        mass = np.cumsum(weights[order]) / total
        # Only the order of the very first tokens matters, so a guess that holds p of the mass is enough.
        if mass[-1] >= p or len(candidates) == len(scores):
            return np.sort(order[: np.searchsorted(mass, p) + 1])
        guess *= 8


def keep_min_p(scores: Scores, p: float) -> Indices:
    """The tokens that are at least p times as likely as the likeliest.

    Source: Nguyen et al., https://arxiv.org/abs/2407.01082.
    """
    return np.flatnonzero(scores - scores.max() >= np.log(p))


def keep_typical(scores: Scores, mass: float) -> Indices:
    """The tokens whose information is closest to the entropy, until their probabilities reach ``mass``.

    Source: Meister et al., https://arxiv.org/abs/2202.00666.
    """
    possible = np.flatnonzero(scores > -np.inf)
    shifted = scores[possible] - scores.max()
    log_probs = shifted - np.log(np.exp(shifted).sum())
    probs = np.exp(log_probs)
    distance = np.abs(-log_probs + (probs * log_probs).sum())
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(probs[order])
    last = min(int((cumulative < mass).sum()), len(order) - 1)
    kept: Indices = possible[distance <= distance[order[last]]]
    return kept


def _at_least_largest(scores: Scores, k: int) -> Indices:
    """Ascending indices of a set that holds the k highest scores, their ties and few others."""
    size = len(scores)
    if k >= size:
        return np.arange(size)
    width = min(64, size // (4 * k))
    if size < _SMALL or width < 2:
        return np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    # The k-th highest of many group maxima cannot be above the k-th highest score.
    groups = size // width
    maxima = scores[: groups * width].reshape(width, groups).max(axis=0)
    return np.flatnonzero(scores >= np.partition(maxima, -k)[-k])
