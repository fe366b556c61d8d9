# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How the tokens of one step are shared out among the slots of a scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Set

from genai_iface.generation.rows.step import OBSERVED_CHUNK_SIZE

__all__ = ["plan_step"]


def plan_step(
    num_slots: int, pending: Mapping[int, int], watched: Set[int], *, token_budget: int, gives_all: bool
) -> tuple[list[int], bool]:
    """One token for each answer, then prompts, the oldest first, as far as the budget goes.

    Args:
        num_slots: Slots of the cache.
        pending: Tokens that have not run yet of each slot in use, in the order in which its requests came.
        watched: The slots whose prompts' logits are asked for.
        token_budget: Most tokens in all, at least the number of slots.
        gives_all: Whether the model gives the logits of every position.

    Returns:
        How many tokens each slot runs, and whether the logits of every position are needed.
    """
    counts = [0] * num_slots
    budget = token_budget
    for slot, count in pending.items():
        if count == 1:
            counts[slot] = 1
            budget -= 1
    takes_all = gives_all and bool(watched)
    most = OBSERVED_CHUNK_SIZE if takes_all else token_budget
    for slot, count in pending.items():
        if count > 1:
            # Where a step gives its last logits only, such a prompt runs by single tokens.
            is_alone = slot in watched and not gives_all
            counts[slot] = min(count, budget, 1 if is_alone else most)
            budget -= counts[slot]
    return counts, takes_all and any(counts[slot] for slot in watched)
