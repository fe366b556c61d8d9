# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that float32, float16 and bfloat16 all hold exactly: 7-bit integers times a power of two."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance.decoder.plan import Plan
from genai_iface.conformance.decoder.quantized import representable_in_blocks

__all__ = ["EOS", "TEXT", "TEXT_TOKENS", "Weights", "rotary_tables", "rounded", "weights_of"]

TEXT = "Hi \U0001f642!é."
"""What the text model says: no byte occurs twice, so each byte names the next."""

EOS = 257
TEXT_TOKENS = (*TEXT.encode(), EOS)

Weights = dict[str, NDArray[np.float64]]


def weights_of(plan: Plan) -> Weights:
    """All weights of a plan by name; matrices are (inputs, outputs)."""
    random = np.random.default_rng(plan.seed)

    def matrix(inputs: int, outputs: int, scale: float = 1.0) -> NDArray[np.float64]:
        return _representable(random.standard_normal((inputs, outputs)), scale * inputs**-0.5)

    def projection(name: str, inputs: int, outputs: int, scale: float = 1.0) -> None:
        if plan.is_quantized:
            weights[name] = representable_in_blocks(name, random.standard_normal((inputs, outputs)), inputs**-0.5)
        else:
            weights[name] = matrix(inputs, outputs, scale)

    def norm() -> NDArray[np.float64]:
        return 1 + random.integers(-8, 9, plan.hidden) / 32

    weights: Weights = {"embedding": _representable(random.standard_normal((plan.vocab_size, plan.hidden)), 1.0)}
    q_size, kv_size = plan.num_heads * plan.head_dim, plan.num_kv_heads * plan.head_dim
    # The text model's attention and MLP may only disturb what the embedding says.
    strength = 0.25 if plan.is_text else 1.0
    for layer in range(plan.layers):
        weights[f"{layer}.norm1"] = norm()
        projection(f"{layer}.q", plan.hidden, q_size, plan.attention_scale)
        projection(f"{layer}.k", plan.hidden, kv_size, plan.attention_scale)
        projection(f"{layer}.v", plan.hidden, kv_size)
        projection(f"{layer}.o", q_size, plan.hidden, strength)
        weights[f"{layer}.norm2"] = norm()
        if plan.experts:
            # Far apart, so that few tokens are on the border between two experts.
            projection(f"{layer}.router", plan.hidden, plan.experts, 4.0)
        for at in plan.mlps(layer):
            projection(f"{at}.gate", plan.hidden, plan.intermediate)
            projection(f"{at}.up", plan.hidden, plan.intermediate)
            projection(f"{at}.down", plan.intermediate, plan.hidden, strength)
    weights["norm"] = norm()
    weights["head"] = matrix(plan.hidden, plan.vocab_size, 0.25 if plan.is_text else 2.0)
    if plan.is_text:
        for token, following in pairwise(TEXT_TOKENS):
            weights["head"][:, following] = weights["embedding"][token] / 4
    return weights


def rotary_tables(plan: Plan, dtype: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cos and sin (context_length, rotary_dim / 2), rounded to the dtype and kept as float32."""
    size = plan.rotary_dim or plan.head_dim
    angles = np.arange(plan.context_length)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    # Frameworks compute the tables in float32 first.
    return rounded(np.cos(angles).astype(np.float32), dtype), rounded(np.sin(angles).astype(np.float32), dtype)


def rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Values rounded to a dtype, to nearest and ties to even, as float32."""
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        # Half of what is cut off, and one less where the last bit that stays is even.
        up = 0x7FFF + ((bits >> 16) & 1)
        return ((bits + up.astype(np.uint32)) & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def _representable(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Rounds values * scale to multiples of a power of two, at most 127 of them."""
    step = 2.0 ** np.round(np.log2(scale / 32))
    return np.asarray(np.clip(np.rint(values * scale / step), -127, 127) * step)
