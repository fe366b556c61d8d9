# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Decoders that keep states, as formulas over a whole sequence in float64: no cache, no state that is handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance.decoder.reference import EPSILON

__all__ = ["HEADS", "KEY", "VALUE", "StateDecoder"]

HEADS, KEY, VALUE = 2, 6, 8
"""Of every recurrence: heads, and the sizes of their keys and values."""

_Array = NDArray[np.float64]


class StateDecoder:
    """One decoder.

    Args:
        weights: By the names that they have in the graph.
        mixers: What each layer mixes tokens with: "attention", "conv", "spelled", or the rule of a recurrence.
        num_heads: Of attention.
        windows: Positions that attention sees, by layer; a layer without one sees all.
    """

    def __init__(
        self, weights: Mapping[str, _Array], mixers: Sequence[str], num_heads: int, windows: Mapping[int, int]
    ) -> None:
        self.w = weights
        self._mixers, self._num_heads, self._windows = mixers, num_heads, windows

    def logits(self, tokens: Sequence[int] | NDArray[np.int64]) -> _Array:
        """(T, V): what follows each token."""
        x = self.w["embedding"][np.asarray(tokens)]
        for layer, mixer in enumerate(self._mixers):
            x = self.store(x + self._mix(layer, mixer, self._norm(f"{layer}.attention", x)))
            y = self._norm(f"{layer}.mlp", x)
            gate, up = self._linear(f"{layer}.gate", y), self._linear(f"{layer}.up", y)
            active = self.store(self.store(gate * self.store(1 / (1 + np.exp(-gate)))) * up)
            x = self.store(x + self._linear(f"{layer}.down", active))
        return self._linear("lm_head", self._norm("final", x))

    def store(self, x: _Array) -> _Array:
        """What the model's type would keep of a tensor between two operators: here all of it."""
        return x

    def _linear(self, name: str, x: _Array) -> _Array:
        return self.store(x @ self.w[f"{name}.weight"])

    def _norm(self, name: str, x: _Array) -> _Array:
        return self.store(x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * self.w[f"{name}.norm"])

    def _mix(self, layer: int, mixer: str, x: _Array) -> _Array:
        if mixer == "attention":
            return self._attend(layer, x)
        if mixer == "conv":
            before, after, x = np.split(self._linear(f"{layer}.in", x), 3, axis=-1)
            return self._linear(f"{layer}.out", self.store(after * self._filtered(layer, self.store(before * x))))
        if mixer == "spelled":
            return self._linear(f"{layer}.out", self._filtered(layer, self._linear(f"{layer}.in", x)))
        return self._linear(f"{layer}.out", self._recur(layer, "gated" if mixer == "gated_channels" else mixer, x))

    def _filtered(self, layer: int, x: _Array) -> _Array:
        """Each channel's weighted sum of its last inputs, zeros before the first."""
        weight = self.w[f"{layer}.conv.weight"][:, 0]
        total = np.zeros_like(x) + self.w.get(f"{layer}.conv.bias", np.zeros(x.shape[-1]))
        for back in range(weight.shape[1]):
            total[back:] += x[: len(x) - back] * weight[:, weight.shape[1] - 1 - back]
        return self.store(total)

    def _recur(self, layer: int, rule: str, x: _Array) -> _Array:
        packed = self._linear(f"{layer}.qkv", x)
        if rule == "gated_delta":
            packed = self._filtered(layer, packed)
            packed = self.store(packed / (1 + np.exp(-packed)))
        q, k, v = (
            part.reshape(len(x), HEADS, -1) for part in np.split(packed, [HEADS * KEY, 2 * HEADS * KEY], axis=-1)
        )
        if "delta" in rule:
            q, k = (self.store(part / self.store(np.linalg.norm(part, axis=-1, keepdims=True))) for part in (q, k))
        rate = np.ones((len(x), HEADS))
        if "delta" in rule:
            rate = self.store(1 / (1 + np.exp(-self._linear(f"{layer}.beta", x))))
        decay = np.zeros((len(x), HEADS, 1))
        if "gated" in rule:
            decay = self.store(-np.log1p(np.exp(self._linear(f"{layer}.decay", x)))).reshape(len(x), HEADS, -1)
        output = np.zeros((len(x), HEADS, VALUE))
        for head in range(HEADS):
            state = np.zeros((KEY, VALUE))
            for at in range(len(x)):
                state = np.exp(decay[at, head])[:, None] * state
                new = v[at, head] - (k[at, head] @ state if "delta" in rule else 0)
                state = state + np.outer(k[at, head], rate[at, head] * new)
                output[at, head] = 0.5 * q[at, head] @ state
        return self.store(output.reshape(len(x), -1))

    def _attend(self, layer: int, x: _Array) -> _Array:
        heads = self._num_heads
        size = self.w[f"{layer}.q.weight"].shape[1] // heads
        q, k, v = (
            self._linear(f"{layer}.{name}", x).reshape(len(x), -1, size).swapaxes(0, 1) for name in ("q", "k", "v")
        )
        q, k, groups = self.store(self._turned(q)), self.store(self._turned(k)), heads // len(k)
        scores = q @ np.repeat(k, groups, 0).swapaxes(1, 2) / np.sqrt(size)
        back = np.arange(len(x))[:, None] - np.arange(len(x))
        scores = np.where((back >= 0) & (back < self._windows.get(layer, len(x))), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = self.store(weights / weights.sum(-1, keepdims=True) @ np.repeat(v, groups, 0))
        return self._linear(f"{layer}.o", mixed.swapaxes(0, 1).reshape(len(x), heads * size))

    def _turned(self, x: _Array) -> _Array:
        """Rotary positions, (H, T, D)."""
        half = x.shape[-1] // 2
        cos, sin = (self.w[f"{name}_{x.shape[-1]}"][: x.shape[1]] for name in ("cos", "sin"))
        first, second = x[..., :half], x[..., half:]
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
