# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Sampling once more, written from docs/spec/sampling.md clause by clause, with lists and ``math`` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

INFINITY = math.inf
MASK = 2**64 - 1


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Sampling.21: the block function."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = (second >> 64) ^ x1 ^ k0, second & MASK, (first >> 64) ^ x3 ^ k1, first & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [x0, x1, x2, x3]


def bits(seed: int, index: int, position: int) -> int:
    return philox([position + 1, 0, 0, 0], [seed, index])[0] >> 11


def processed(
    logits: Sequence[float], config: Mapping[str, Any], tokens: Sequence[int], num_new: int, stop_ids: Sequence[int]
) -> list[float]:
    """Sampling.3 to Sampling.9."""
    scores = [float(value) for value in logits]
    for token, bias in config.get("logit_bias", {}).items():
        scores[int(token)] += bias
    penalty = config.get("repetition_penalty", 1)
    for token in set(tokens):
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    generated = list(tokens[len(tokens) - num_new :])
    for token in set(generated):
        scores[token] -= config.get("presence_penalty", 0) + config.get("frequency_penalty", 0) * generated.count(token)
    size = config.get("no_repeat_ngram_size", 0)
    if size and len(tokens) >= size:
        ngrams = {tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)}
        last = tuple(tokens[len(tokens) - size + 1 :])
        for token in range(len(scores)):
            if (*last, token) in ngrams:
                scores[token] = -INFINITY
    for word in config.get("bad_words_ids", []):
        is_stop = len(word) == 1 and word[0] in stop_ids
        if (
            not is_stop
            and list(tokens)[len(tokens) - len(word) + 1 :] == list(word[:-1])
            and len(word) <= len(tokens) + 1
        ):
            scores[word[-1]] = -INFINITY
    if num_new < config.get("min_new_tokens", 0):
        for token in stop_ids:
            scores[token] = -INFINITY
    return scores


def draws(config: Mapping[str, Any]) -> bool:
    """Sampling.12."""
    if config.get("temperature", 1) == 0:
        return False
    neutral = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1, "seed": None}
    return config.get("do_sample", any(config.get(name, value) != value for name, value in neutral.items()))


def survivors(scores: Sequence[float], config: Mapping[str, Any]) -> dict[int, float]:
    """Sampling.14 to Sampling.19: z by token."""
    best = max(scores)
    z = {token: (score - best) / config.get("temperature", 1) for token, score in enumerate(scores)}
    k = config.get("top_k", 0)
    if k and k < len(z):
        limit = sorted(z.values(), reverse=True)[k - 1]
        z = {token: value for token, value in z.items() if value >= limit}
    p = config.get("top_p", 1)
    if p < 1:
        order = sorted(z, key=lambda token: (-z[token], token))
        kept = shortest(order, probabilities(z), p)
        z = {token: z[token] for token in sorted(kept)}
    p = config.get("min_p", 0)
    if p:
        z = {token: value for token, value in z.items() if value >= math.log(p)}
    p = config.get("typical_p", 1)
    if p < 1:
        z = {token: value for token, value in z.items() if value > -INFINITY}
        law = probabilities(z)
        total = math.log(math.fsum(math.exp(value) for value in z.values()))
        logs = {token: value - total for token, value in z.items()}
        entropy = -math.fsum(law[token] * logs[token] for token in z)
        distance = {token: abs(-logs[token] - entropy) for token in z}
        farthest = max(distance[token] for token in shortest(sorted(z, key=lambda t: (distance[t], t)), law, p))
        z = {token: value for token, value in z.items() if distance[token] <= farthest}
    return z


def probabilities(z: Mapping[int, float]) -> dict[int, float]:
    total = math.fsum(math.exp(value) for value in z.values())
    return {token: math.exp(value) / total for token, value in z.items()}


def shortest(order: Sequence[int], law: Mapping[int, float], mass: float) -> list[int]:
    """The shortest beginning that reaches a mass; sums are exact."""
    total = Fraction(0)
    for count, token in enumerate(order, start=1):
        total += Fraction(law[token])
        if total >= mass:
            return list(order[:count])
    return list(order)


def weights(z: Mapping[int, float]) -> dict[int, float]:
    best = max(z.values())
    return {token: math.exp(z[token] - best) for token in sorted(z)}


def drawn(weight: Mapping[int, float], u: float) -> int:
    """Sampling.20."""
    running, sums = 0.0, {}
    for token, value in weight.items():
        running += value
        sums[token] = running
    for token, c in sums.items():
        if c > u * running:
            return token
    return max(token for token, value in weight.items() if value > 0)


def choose(
    logits: Sequence[float],
    config: Mapping[str, Any],
    tokens: Sequence[int],
    num_new: int,
    stop_ids: Sequence[int],
    *,
    seed: int,
    index: int,
) -> int:
    scores = processed(logits, config, tokens, num_new, stop_ids)
    if not draws(config):
        return scores.index(max(scores))
    return drawn(weights(survivors(scores, config)), bits(seed, index, len(tokens)) * 2.0**-53)
