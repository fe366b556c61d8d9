# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What each question is answered with alone, and what else it may be answered with because logits are rounded.

A draw is a number in [0, 1) that falls between two borders of the cumulative distribution. Where it is within
``ROUNDING`` of a border, the last bits of the logits decide on which side, and they depend on how a prompt was cut into
steps and on the batch. So the answers of both sides are right, and no other one is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.workload import TEMPERATURE, Question
from genai_iface import TextGenerationPipeline
from genai_iface.generation.sampling.filters import Filter, build_filters
from genai_iface.generation.sampling.sampler import uniform

__all__ = ["ROUNDING", "Reference", "draw_of", "references"]

ROUNDING = 1e-5
"""How near to a border a draw counts as at it.

In 1309 draws of the embedded model in float32, borders in a batch and alone were up to 3.2e-6 apart.
"""

_MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Reference:
    """What a question is answered with alone.

    Attributes:
        text: The answer.
        others: The answers of the other sides of borders, each with how near the draw is to its border. Where a
            sequence crosses several, with how near it is to the farthest of them.
    """

    text: str
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Recorder:
    """Looks at the scores of one generation, and leads it over borders.

    Attributes:
        seed: Of the draws.
        filters: That run before a draw.
        rounding: How near a border has to be.
        forced: The token that is taken, by the length of the sequence before it.
        found: (length, token, distance) of each border that is near.
    """

    seed: int
    filters: Sequence[Filter]
    rounding: float
    forced: Mapping[int, int]
    found: list[tuple[int, int, float]] = field(default_factory=list)

    def __call__(self, tokens: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        length = len(tokens)
        if length in self.forced:
            token = self.forced[length]
            scores[:token] = scores[token + 1 :] = -np.inf
            return
        cumulative, u = draw_of(scores, self.filters, self.seed, length)
        drawn, lowest, highest = (
            int(np.searchsorted(cumulative, at, side="right")) for at in (u, u - self.rounding, u + self.rounding)
        )
        for token in range(lowest, min(highest, len(scores) - 1) + 1):
            border = token if token < drawn else token - 1
            has_weight = cumulative[token] > (cumulative[token - 1] if token else 0)
            if token != drawn and has_weight:
                self.found.append((length, token, abs(float(cumulative[border]) - u)))


def draw_of(
    scores: NDArray[np.float64], filters: Sequence[Filter], seed: int, length: int
) -> tuple[NDArray[np.float64], float]:
    """What decides a token: the cumulative distribution (V,), and the number that picks from it.

    Args:
        scores: (V,) before the temperature.
        filters: That run after it.
        seed: Of the draws.
        length: Tokens before this one.
    """
    scores = scores / TEMPERATURE
    kept = np.arange(len(scores))
    for keep in filters:
        kept = kept[keep(scores[kept])]
    weights = np.zeros(len(scores))
    weights[kept] = np.exp(scores[kept] - scores.max())
    cumulative = np.cumsum(weights)
    return cumulative / cumulative[-1], uniform(seed, 0, length)


def references(
    pipe: TextGenerationPipeline, questions: Sequence[Question], *, rounding: float = ROUNDING
) -> dict[Question, Reference]:
    """The answers of the pipeline for each question alone.

    Greedy questions where a token was nearly another one are left out.

    Args:
        pipe: Answers, one question at a time.
        questions: All of them.
        rounding: How near to a border a draw counts as at it.
    """
    found = {}
    for question in questions:
        answer = _greedy(pipe, question) if question[2] is None else _drawn(pipe, question, rounding)
        if answer is not None:
            found[question] = answer
    return found


def _greedy(pipe: TextGenerationPipeline, question: Question) -> Reference | None:
    prompt, max_tokens, _ = question
    result = pipe.generate(prompt, max_new_tokens=max_tokens, temperature=0, logprobs=2)
    tops = [token.top for token in (result.logprobs or [[]])[0]]
    is_clear = all(first[1] - second[1] > _MARGIN for first, second in tops)
    return Reference(result.text) if is_clear else None


def _drawn(pipe: TextGenerationPipeline, question: Question, rounding: float) -> Reference:
    """Follows each way over borders, the first without any."""
    prompt, max_tokens, seed = question
    assert seed is not None
    filters = build_filters(pipe.generation_config)
    texts: dict[str, float] = {}
    ways: list[tuple[dict[int, int], float]] = [({}, 0.0)]
    for forced, distance in ways:
        recorder = _Recorder(seed, filters, rounding, forced)
        text = pipe.generate(
            prompt, max_new_tokens=max_tokens, temperature=TEMPERATURE, seed=seed, logits_processors=[recorder]
        ).text
        texts[text] = min(distance, texts.get(text, distance))
        last = max(forced, default=0)
        # Borders before the last crossing were found on the way there.
        ways += [
            ({**forced, length: token}, max(distance, near)) for length, token, near in recorder.found if length > last
        ]
    first, *others = texts
    return Reference(first, {text: texts[text] for text in others})
