# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finds seeds with which every greedy step of every dtype has its margin."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._tolerance import relative_tolerance
from genai_iface.conformance.decoder.plan import DTYPES, PLANS, Plan
from genai_iface.conformance.decoder.reference import draw_row, greedy, logits_of
from genai_iface.conformance.decoder.weights import TEXT_TOKENS, weights_of

__all__ = ["MARGIN", "greedy_prompt", "has_margins", "sequences_of"]

MARGIN = 4.0
"""The least distance of the two highest logits, in tolerances."""


def sequences_of(plan: Plan) -> list[list[int]]:
    """The teacher-forced rows of tokens."""
    if plan.is_text:
        return [list(TEXT_TOKENS[:-1])[: plan.num_tokens]]
    random = np.random.default_rng(plan.seed + 1)
    if plan.experts:
        # What is clear in the widest type is clear in all.
        weights = weights_of(plan)
        return [draw_row(plan, weights, DTYPES[-1], random, plan.num_tokens) for _ in range(plan.num_rows)]
    shape = plan.num_rows, plan.num_tokens
    return [[int(token) for token in row] for row in random.integers(0, plan.vocab_size, shape)]


def greedy_prompt(plan: Plan) -> list[int]:
    """The tokens that greedy decoding starts from."""
    if plan.is_text:
        return [TEXT_TOKENS[0]]
    sequence = sequences_of(plan)[0]
    return sequence if plan.num_tokens > 1000 else sequence[:5]


def has_margins(plan: Plan, dtypes: tuple[str, ...] = DTYPES) -> bool:
    """Whether every greedy step is clear, and the greedy tokens are not all the same."""
    weights = weights_of(plan)
    for dtype in reversed([dtype for dtype in dtypes if dtype in plan.dtypes]):
        # Least number of steps first: most seeds fail early.
        for steps in (2, plan.num_greedy):
            tokens, margins, largest = greedy(plan, weights, dtype, greedy_prompt(plan), steps)
            scale = max(largest, _largest(plan, weights, dtype))
            if (
                min(margins)
                < MARGIN
                * relative_tolerance(plan.judged_as(dtype), plan.reduction_length, plan.num_stores)
                * scale
                * 1.05
            ):
                return False
        if len(set(tokens)) < min(4, plan.num_greedy - 1):
            return False
    return True


def _largest(plan: Plan, weights: Mapping[str, NDArray[np.float64]], dtype: str) -> float:
    """The largest magnitude among the reference logits; of a long row its beginning says enough."""
    rows = [row[:64] for row in sequences_of(plan)]
    return max(float(np.abs(logits_of(plan, weights, dtype, row, None)).max()) for row in rows)


def main(names: list[str]) -> None:
    """Prints a seed for each plan."""
    for plan in PLANS:
        if names and plan.name not in names:
            continue
        found = next((seed for seed in range(100_000) if has_margins(dataclasses.replace(plan, seed=seed))), None)
        print(plan.name, found, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
