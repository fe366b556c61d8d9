# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a question alone gives another answer when only its steps are cut in another way.

A token in a step that is one token wide and one in a wider step, because its row or one beside it has more to run, go
through other kernels, whose results differ in their last bits. Which tokens do depends on the prompts and prefixes in
a scheduler, and nothing else of them reaches a row. Where activations are rounded to eight bits, a last bit may become
a step of that rounding, and move the border that a draw is near. So an answer under load is explained by a run of its
question with nothing else in the cache that gives the same answer; that needs no tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.load.reference import draw_of
from benchmarks.load.workload import TEMPERATURE, Question
from genai_iface import LogitsMode, Model, TextGenerationPipeline
from genai_iface.generation.sampling.filters import build_filters

__all__ = ["Explanation", "OtherSteps", "explain"]

_SHARES = (0.02, 0.1, 0.3, 0.6)


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came to be another one.

    Attributes:
        runs: Of the question alone, until one gave the answer.
        token: The number of the first token that parts.
        from_border: For a draw, how far it is from the border between the two tokens, in probability; for a greedy
            question, how far the better token is above the other, in logits.
        logits_apart: The largest difference of the logits there between the two runs.
    """

    runs: int
    token: int
    from_border: float
    logits_apart: float


class OtherSteps:
    """A model that cuts what it is given into other steps, each time differently.

    Args:
        model: Runs them; closing is its owner's business.
        seed: Of the cuts.
    """

    def __init__(self, model: Model[Any], seed: int) -> None:
        self._model = model
        self._random = np.random.default_rng(seed)
        self._share = float(self._random.choice(_SHARES))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def close(self) -> None:
        """Closes nothing."""

    def forward(
        self, input_ids: ArrayLike, cache: Any, /, *, counts: ArrayLike | None = None, logits: LogitsMode = "last"
    ) -> NDArray[np.float32]:
        """One row's tokens, in several steps or with one more behind them."""
        ids = np.asarray(input_ids)
        if len(ids) != 1 or counts is not None or logits == "all":
            return self._model.forward(ids, cache, counts=counts, logits=logits)
        parts = self._cut(ids)
        for part in parts[:-1]:
            self._step(part, cache, "none")
        return self._step(parts[-1], cache, logits)

    def _cut(self, ids: NDArray[Any]) -> list[NDArray[Any]]:
        length = ids.shape[1]
        at = set()
        if length > 1 and self._random.random() < 0.5:
            at.add(int(self._random.integers(1, length)))
            if self._random.random() < 0.25:
                # One token by itself, as where a step has room for no more.
                at |= {min(next(iter(at)) + 1, length - 1)}
        if length > 1 and self._random.random() < 0.5:
            # As when all of a prompt but its last token is held.
            at.add(length - 1)
        return np.split(ids, sorted(at), axis=1)

    def _step(self, ids: NDArray[Any], cache: Any, logits: LogitsMode) -> NDArray[np.float32]:
        end = int(cache.lengths[0]) + 1
        if ids.shape[1] > 1 or end >= cache.capacity or self._random.random() >= self._share:
            return self._model.forward(ids, cache, logits=logits)
        # As beside a row that runs a prompt, which is padding behind this one's token. Padding that is named as such is
        # left out where no row needs it, so it is a token here, and forgotten again.
        given = self._model.forward(np.repeat(ids, 2, axis=1), cache, logits="none" if logits == "none" else "all")
        cache.rewind_to(np.array([end]))
        return given[:, :1]


def explain(
    pipe: TextGenerationPipeline, question: Question, text: str, *, is_whole: bool = True, most: int = 1000
) -> Explanation | None:
    """Looks for a run of a question alone that gives an answer; None if there is none.

    Args:
        pipe: Has the model, and gave the reference.
        question: What was asked.
        text: The answer.
        is_whole: Whether it is all of it, or its beginning.
        most: Runs at most.
    """
    seed = question[2]
    own, own_scores, prompt = _run(pipe, question)
    for number in range(most):
        with _in_other_steps(pipe, number) as other:
            result, scores, _ = _run(other, question)
        found: str = result.text
        if found != text and (is_whole or not found.startswith(text)):
            continue
        pairs = zip(own.token_ids[0], result.token_ids[0], strict=False)
        at, (one, two) = next((at, pair) for at, pair in enumerate(pairs) if pair[0] != pair[1])
        here, there = own_scores[at], scores[at]
        finite = np.isfinite(here) & np.isfinite(there)
        apart = float(np.abs(here[finite] - there[finite]).max())
        if seed is None:
            return Explanation(number + 1, at, float(here[one] - here[two]), apart)
        cumulative, u = draw_of(here, build_filters(pipe.generation_config), seed, prompt + at)
        # The borders of a token are its own end and that of the one before.
        borders = (cumulative[two], cumulative[two - 1] if two else 0.0)
        return Explanation(number + 1, at, float(min(abs(border - u) for border in borders)), apart)
    return None


@contextmanager
def _in_other_steps(pipe: TextGenerationPipeline, seed: int) -> Iterator[TextGenerationPipeline]:
    model: Any = OtherSteps(pipe.model, seed)
    with TextGenerationPipeline.from_parts(model, pipe.tokenizer, pipe.generation_config) as other:
        yield other


def _run(pipe: TextGenerationPipeline, question: Question) -> tuple[Any, list[NDArray[np.float64]], int]:
    prompt, max_tokens, seed = question
    scores: list[NDArray[np.float64]] = []

    def record(_: NDArray[np.int64], given: NDArray[np.float64]) -> None:
        scores.append(given.copy())

    draw: dict[str, Any] = {"temperature": 0} if seed is None else {"temperature": TEMPERATURE, "seed": seed}
    result = pipe.generate(prompt, max_new_tokens=max_tokens, logits_processors=[record], **draw)
    return result, scores, result.perf_metrics.num_prompt_tokens
