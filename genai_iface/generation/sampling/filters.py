# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Filters: which tokens stay in the draw. They run only when tokens are drawn at random.

Each takes scores (n,), finite or -inf, and returns the ascending indices of those that it keeps, at
least one. The order is temperature, top-k, top-p, min-p, typical; each sees only what the one before
it left, and probabilities are those of the tokens that are left (as in Transformers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from genai_iface.config import GenerationConfig

__all__ = ["Filter", "build_filters", "keep_min_p", "keep_top_k", "keep_top_p", "keep_typical"]

Scores: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]

Filter: TypeAlias = Callable[[Scores], Indices]
"""Gives the indices of the scores (n,) that it keeps."""

# Up to this size plain sorting and partitioning are quick enough.
_SMALL = 4096
# Distances are differences of logarithms of probabilities: beyond 32 hardly any mass is left.
_NUM_BINS = 1024
_BINS_PER_UNIT = 32
# Beyond this distance a token has less than a 20,000th of the likeliest one's probability.
_NEAR = 10.0


def build_filters(config: GenerationConfig, /) -> list[Filter]:
    """The filters that a configuration asks for, in their order; neutral ones are left out."""
    chosen: list[Filter] = []
    if config.top_k:
        chosen.append(lambda scores: keep_top_k(scores, config.top_k))
    if config.top_p < 1:
        chosen.append(lambda scores: keep_top_p(scores, config.top_p))
    if config.min_p:
        chosen.append(lambda scores: keep_min_p(scores, config.min_p))
    if config.typical_p < 1:
        chosen.append(lambda scores: keep_typical(scores, config.typical_p))
    return chosen


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
    distance = scores.max() - scores
    weights = np.exp(-distance)
    mass = p * weights.sum()
    near = np.flatnonzero(distance < _NEAR)
    near_distance, near_weights = distance[near], weights[near]
    if near_weights.sum() < mass:
        return np.flatnonzero(_nearest(distance, weights, mass))
    # Those that are not near come last, so they need no ordering.
    kept: Indices = near[_nearest(near_distance, near_weights, mass)]
    return kept


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
    log_probs = scores[possible] - scores.max()
    log_probs -= np.log(np.exp(log_probs).sum())
    probs = np.exp(log_probs)
    # The entropy is minus the sum of p log p, and a token's information minus log p.
    distance = np.abs(log_probs - (probs * log_probs).sum())
    nearest = distance[_nearest(distance, probs, mass)]
    kept: Indices = possible[distance <= nearest.max()]
    return kept


def _nearest(distance: Scores, weights: Scores, mass: float) -> NDArray[np.bool_]:
    """Which entries come first by distance until their weights reach ``mass``; ties: the lowest index first.

    Entries are put into bins of distance, so that only those of one bin need sorting.
    """
    size = len(distance)
    bins = np.zeros(size, dtype=np.intp)
    first, before = 0, 0.0
    if size > _SMALL:
        bins = np.minimum(distance * _BINS_PER_UNIT, _NUM_BINS - 1).astype(np.intp)
        total = np.cumsum(np.bincount(bins, weights, _NUM_BINS))
        first = min(int(np.searchsorted(total, mass)), _NUM_BINS - 1)
        before = float(total[first - 1]) if first else 0.0
    members = np.flatnonzero(bins == first)
    order = members[np.argsort(distance[members], kind="stable")]
    count = int(np.searchsorted(before + np.cumsum(weights[order]), mass)) + 1
    chosen = bins < first
    chosen[order[:count]] = True
    return chosen


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
