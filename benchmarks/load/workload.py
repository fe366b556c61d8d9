# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Requests of mixed lengths, from a seed: what each asks, and how its client behaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

__all__ = ["KINDS", "TEMPERATURE", "Ask", "Kind", "Question", "make_asks", "make_questions"]

Kind: TypeAlias = Literal["whole", "stream", "cancel", "slow", "broken", "killed"]

Question: TypeAlias = tuple[str, int, int | None]
"""A prompt, most tokens of its answer, and a seed if it draws: what decides the answer."""

KINDS: dict[Kind, float] = {
    "whole": 0.4,  # waits for the whole answer
    "stream": 0.35,  # reads it as it comes
    "cancel": 0.1,  # closes the connection after a few events
    "slow": 0.05,  # pauses between reads
    "broken": 0.08,  # resets the connection at once
    "killed": 0.02,  # is a process of its own, which is killed
}
"""Ways in which clients behave, and the share of each."""

TEMPERATURE = 0.8
"""Of requests that draw."""

_TEXT = """the operator takes a tensor of shape and returns its output along axis with elements that broadcast where
input data type float index values dimension attribute default model graph node version optional sum product"""
_LENGTHS = (4, 12, 40, 120)
_TOKENS = (4, 12, 24, 48)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        number: Of the request.
        prompt: The text to go on with.
        max_tokens: Most tokens of the answer.
        seed: For a request that draws; None for a greedy one.
        kind: How its client behaves.
    """

    number: int
    prompt: str
    max_tokens: int
    seed: int | None
    kind: Kind

    @property
    def question(self) -> Question:
        """What decides the answer."""
        return self.prompt, self.max_tokens, self.seed


def make_questions(count: int, *, beginnings: int, seed: int) -> list[Question]:
    """Different questions, a third of which draw.

    Args:
        count: How many.
        beginnings: Different beginnings that their prompts share.
        seed: Equal seeds give equal questions.
    """
    random = np.random.default_rng(seed)

    def text(length: int) -> str:
        return " ".join(random.choice(_TEXT.split(), length))

    shared = [text(40) for _ in range(beginnings)]
    return [
        (
            f"{shared[number % beginnings]} {text(int(random.choice(_LENGTHS)))}",
            int(random.choice(_TOKENS)),
            int(random.integers(2**31)) if number % 3 == 0 else None,
        )
        for number in range(count)
    ]


def make_asks(count: int, questions: Sequence[Question], *, seed: int, polite: bool = False) -> list[Ask]:
    """Requests from a seed.

    Args:
        count: How many.
        questions: What is asked.
        seed: Equal seeds give equal requests.
        polite: Whether all clients wait for their answers.
    """
    random = np.random.default_rng(seed)
    kinds = random.choice(list(KINDS), count, p=list(KINDS.values())).tolist()
    chosen = [questions[at] for at in random.integers(len(questions), size=count).tolist()]
    return [
        Ask(number, prompt, max_tokens, drawn, "whole" if polite else kinds[number])
        for number, (prompt, max_tokens, drawn) in enumerate(chosen)
    ]
