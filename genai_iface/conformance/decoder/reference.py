# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The reference: the decoder in float64, one row, without a cache. It shares no code with any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._tolerance import relative_tolerance
from genai_iface.conformance.decoder.plan import Plan
from genai_iface.conformance.decoder.weights import rotary_tables

__all__ = ["EPSILON", "draw_row", "greedy", "is_clear", "logits_of"]

EPSILON = float(np.float32(1e-5))

_Array = NDArray[np.float64]
_BLOCK = 512
_CLEAR = 2.0
"""How far apart, in tolerances, the last expert that is taken and the first that is not must be."""


def logits_of(
    plan: Plan,
    weights: Mapping[str, _Array],
    dtype: str,
    tokens: Sequence[int] | NDArray[np.int64],
    keep: int | None,
    gaps: list[float] | None = None,
) -> _Array:
    """The logits (keep, V) after the last ``keep`` tokens of a row; None keeps all.

    Args:
        plan: The sizes and features of the decoder.
        weights: The arrays by name that ``weights_of`` returned.
        dtype: Whose rounding the rotary tables have; nothing else is rounded.
        tokens: (T,), the token ids of the row.
        keep: How many positions.
        gaps: Gets how clear the router's choice at the last token is in each layer, relative to its largest score.
    """
    cos, sin = (table.astype(np.float64)[: len(tokens)] for table in rotary_tables(plan, dtype))
    hidden = weights["embedding"][np.asarray(tokens)]
    for layer in range(plan.layers):
        x = _norm(hidden, weights[f"{layer}.norm1"])
        q, k, v = (_heads(x @ weights[f"{layer}.{name}"], plan.head_dim) for name in "qkv")
        # Behind the last layer only the kept positions are looked at: long rows would cost by their square.
        begin = max(0, len(hidden) - keep) if keep is not None and layer == plan.layers - 1 else 0
        q, hidden = _rotate(q, cos, sin)[:, begin:], hidden[begin:]
        mixed = _attention(q, _rotate(k, cos, sin), v, plan, plan.window_of(layer))
        hidden = hidden + mixed @ weights[f"{layer}.o"]
        x = _norm(hidden, weights[f"{layer}.norm2"])
        shares = _shares(x @ weights[f"{layer}.router"], gaps) if plan.experts else np.ones((len(x), 1))
        for expert, at in enumerate(plan.mlps(layer)):
            gate = x @ weights[f"{at}.gate"]
            active = gate / (1 + np.exp(-gate)) * (x @ weights[f"{at}.up"])
            hidden = hidden + shares[:, expert, None] * (active @ weights[f"{at}.down"])
    return np.asarray(_norm(hidden, weights["norm"]) @ weights["head"])


def draw_row(
    plan: Plan, weights: Mapping[str, _Array], dtype: str, random: np.random.Generator, length: int
) -> list[int]:
    """A row of tokens; where there are experts, none stands so near the border of two that rounding decides."""
    if not plan.experts:
        return [int(token) for token in random.integers(0, plan.vocab_size, length)]
    tokens: list[int] = []
    while len(tokens) < length:
        # A token that every choice of its neighbors would leave unclear is not asked for a second time.
        for token in random.permutation(plan.vocab_size).tolist():
            if is_clear(plan, weights, dtype, [*tokens, token]):
                tokens.append(token)
                break
        else:
            tokens = []
    return tokens


def is_clear(plan: Plan, weights: Mapping[str, _Array], dtype: str, tokens: Sequence[int]) -> bool:
    """Whether the router's choice at the last token of a row is beyond what rounding can change."""
    if not plan.experts:
        return True
    gaps: list[float] = []
    logits_of(plan, weights, dtype, tokens, 1, gaps)
    relative = relative_tolerance(dtype, plan.reduction_length, plan.num_stores)
    return min(gaps) > _CLEAR * relative


def greedy(
    plan: Plan, weights: Mapping[str, _Array], dtype: str, prompt: Sequence[int], steps: int
) -> tuple[list[int], list[float], float]:
    """Greedy decoding.

    Returns:
        The tokens, the distance of the two highest logits at each step, and the largest magnitude
        of all logits seen.
    """
    tokens, margins, largest = list(prompt), [], 0.0
    for _ in range(steps):
        logits = logits_of(plan, weights, dtype, tokens, 1)[0]
        second, first = np.sort(logits)[-2:]
        # A token on the border between two experts may turn out either way.
        margins.append(float(first - second) if is_clear(plan, weights, dtype, tokens) else 0.0)
        largest = max(largest, float(np.abs(logits).max()))
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :], margins, largest


def _shares(scores: _Array, gaps: list[float] | None) -> _Array:
    """(T, E): how much of each expert a token gets; the two with the highest scores share it by softmax."""
    order = np.sort(scores, axis=-1)
    if gaps is not None:
        gaps.append(float((order[-1, -2] - order[-1, -3]) / np.abs(scores[-1]).max()))
    mass = np.where(scores >= order[:, -2:-1], np.exp(scores - order[:, -1:]), 0.0)
    return np.asarray(mass / mass.sum(-1, keepdims=True))


def _norm(x: _Array, scale: _Array) -> _Array:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * scale)


def _heads(x: _Array, size: int) -> _Array:
    """(T, H * D) to (H, T, D)."""
    return x.reshape(len(x), -1, size).swapaxes(0, 1)


def _rotate(x: _Array, cos: _Array, sin: _Array) -> _Array:
    half = cos.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin, rest), axis=-1)


def _attention(q: _Array, k: _Array, v: _Array, plan: Plan, window: int | None) -> _Array:
    """(Q, H * D) of the last Q of T tokens: each sees the keys up to its own, within the window where there is one."""
    num_queries, num_tokens = q.shape[1], k.shape[1]
    group = plan.num_heads // plan.num_kv_heads
    result = np.empty((num_queries, plan.num_heads, plan.head_dim))
    for begin in range(0, num_queries, _BLOCK):
        queries = np.arange(begin, min(begin + _BLOCK, num_queries))
        distance = num_tokens - num_queries + queries[:, None] - np.arange(num_tokens)
        hidden = (distance < 0) | (distance >= (window or num_tokens))
        for head in range(plan.num_heads):
            scores = q[head, queries] @ k[head // group].T * plan.head_dim**-0.5
            if plan.softcap:
                scores = np.tanh(scores / plan.softcap) * plan.softcap
            scores[hidden] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            result[queries, head] = scores / scores.sum(-1, keepdims=True) @ v[head // group]
    return result.reshape(num_queries, -1)
