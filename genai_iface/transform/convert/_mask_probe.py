# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Classifies an attention mask by what it hides: causal, sliding window, or something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import UnsupportedModelError

__all__ = ["HIDDEN", "MaskClass", "classify_mask", "first_difference", "position_limit", "probe_steps", "window_sizes"]

Visible = Callable[[int, int, int], NDArray[Any]]
"""(past, new, batch) -> bool, broadcastable to (batch, heads, new, past + new): which keys each query sees."""

HIDDEN = -5000.0
"""A score below this is hidden; exporters write -10000, -65504, the smallest float32 or minus infinity."""

# No window of a real model is longer; constants above it are bounds of slices.
_LONGEST = 2**18
_NO_CLASS = (
    "A cache with TensorScatter knows causal attention and sliding windows. Keep the past/present model, "
    "or export the model with one of these masks."
)


@dataclass(frozen=True, slots=True)
class MaskClass:
    """What a mask hides besides padding.

    Attributes:
        window: Keys that a query sees, its own among them; None where it sees all before it.
    """

    window: int | None = None

    def __str__(self) -> str:
        return "causal" if self.window is None else f"window {self.window}"

    def visible(self, past: int, new: int) -> NDArray[np.bool_]:
        """Bool (new, past + new): whether query i sees key j."""
        queries, keys = np.arange(past, past + new)[:, None], np.arange(past + new)
        hidden = keys > queries
        if self.window is not None:
            hidden |= keys <= queries - self.window
        seen: NDArray[np.bool_] = ~hidden
        return seen


def window_sizes(config: Mapping[str, Any]) -> list[int]:
    """The sizes of windows and chunks that a config.json names."""
    text = config.get("text_config")
    found = {**config, **(text if isinstance(text, dict) else {})}
    named = [value for name, value in found.items() if "window" in name or "chunk" in name]
    return [value for value in named if isinstance(value, int) and not isinstance(value, bool)]


def position_limit(config: Mapping[str, Any]) -> int | None:
    """The positions that a config.json gives its model, None if it does not say."""
    text = config.get("text_config")
    found = {**config, **(text if isinstance(text, dict) else {})}
    named = (found.get(name) for name in ("max_position_embeddings", "n_positions"))
    return next((value for value in named if type(value) is int and value > 0), None)


def probe_steps(numbers: Iterable[int], limit: int | None = None) -> list[tuple[int, int, int]]:
    """Steps (past, new, batch) that tell masks apart, the longest last.

    Args:
        numbers: Integers that the graph or config.json mentions; a window is among them.
        limit: Positions that the model has; beyond them a table of positions may have no row.
    """
    longest = max((abs(number) for number in numbers if abs(number) <= _LONGEST), default=0) + 7
    if limit is not None:
        longest = max(min(longest, limit - 6), 1)
    steps = [(0, 1, 2), (0, 7, 2), (5, 1, 2), (9, 4, 2)]
    if longest <= 600:
        half = longest // 2
        steps += [(0, longest, 1), (half, longest if limit is None else min(longest, limit - half), 1)]
    steps += [(longest, 1, 1), (longest + 3, 3, 1)]
    return [step for step in steps if limit is None or step[0] + step[1] <= limit]


def classify_mask(visible: Visible, numbers: Iterable[int], what: str, *, limit: int | None = None) -> MaskClass:
    """Finds the class of a mask by looking at what it hides, at several lengths.

    Args:
        visible: Evaluates the mask.
        numbers: Window sizes that the mask may have, as for ``probe_steps``.
        what: The attention, for messages.
        limit: Positions that the model has; nothing is run beyond them.

    Raises:
        UnsupportedModelError: It is neither causal nor a window; the message names the first query and key where
            it differs.
    """
    steps = probe_steps(numbers, limit)
    shown = {step: _common(visible(*step), step, what) for step in steps}
    past, new, _ = steps[-1]
    row = shown[steps[-1]][-1]
    seen = int(row.sum())
    guess = MaskClass() if seen == past + new or seen == 0 or not row[-1] else MaskClass(seen)
    for step, mask in shown.items():
        place = first_difference(mask, guess.visible(*step[:2]))
        if place is not None:
            query, key = place[0] + step[0], place[1]
            state = "visible" if mask[place] else "hidden"
            raise UnsupportedModelError(
                f"The mask of the {what} is neither causal nor a sliding window: with {step[1]} tokens after "
                f"{step[0]}, key {key} is {state} to the query at position {query}; a {guess} mask says the opposite",
                remedy=_NO_CLASS,
            )
    return guess


def first_difference(one: NDArray[Any], other: NDArray[Any]) -> tuple[int, ...] | None:
    """The index of the first element in which two arrays differ."""
    places = np.argwhere(one != other)
    return tuple(int(index) for index in places[0]) if len(places) else None


def _common(mask: NDArray[Any], step: tuple[int, int, int], what: str) -> NDArray[np.bool_]:
    """Bool (new, past + new), which has to be the same for all rows and heads."""
    past, new, _ = step
    whole = np.broadcast_to(mask, np.broadcast_shapes(mask.shape, (1, 1, new, past + new)))
    first = whole[0, 0]
    for head in whole.reshape(-1, *whole.shape[2:]):
        place = first_difference(head, first)
        if place is not None:
            raise UnsupportedModelError(
                f"The mask of the {what} differs between rows or heads, first at query {place[0] + past}, "
                f"key {place[1]}",
                remedy=_NO_CLASS,
            )
    return np.asarray(first, np.bool_)
