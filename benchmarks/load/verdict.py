# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What many clients saw, as numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from benchmarks.load.client import Seen
from benchmarks.load.other_steps import Explanation
from benchmarks.load.reference import Reference
from benchmarks.load.workload import Question

__all__ = ["Explain", "judge", "percentiles"]

_SHOWN = 10

Explain: TypeAlias = Callable[[Question, str, bool], Explanation | None]
"""Looks for a run of a question alone that gives a text, or begins with it if it is not whole."""


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 4), "p99": round(cuts[98], 4)}


def judge(
    seen: Sequence[Seen], expected: Mapping[Question, Reference], explain: Explain = lambda *_: None
) -> dict[str, Any]:
    """Errors, and answers that are not those of their questions.

    An answer that was read to its end must equal its reference, one that was broken off must be its beginning. One
    that is different must, as exactly, be what the question is answered with on the other side of a border, or in
    other steps.

    Args:
        seen: What the clients got.
        expected: The references.
        explain: Asked once for each different answer that no border explains.
    """
    different, unexplained, foreign, in_other_steps = [], [], 0, 0
    explained: dict[tuple[Question, str, bool], Explanation | None] = {}
    texts = {text for reference in expected.values() for text in (reference.text, *reference.others)}
    for one in seen:
        reference = expected[one.ask.question]
        if one.text is None or _is(one, reference.text):
            continue
        different.append(one)
        if any(_is(one, other) for other in reference.others):
            continue
        key = (one.ask.question, one.text, one.is_whole)
        if key not in explained:
            explained[key] = explain(*key)
        if explained[key] is None:
            unexplained.append(one)
            foreign += one.text in texts
        else:
            in_other_steps += 1
    whole = [one for one in seen if one.is_whole]
    prompt = [one for one in whole if one.ask.kind in ("whole", "stream")]
    return {
        "requests": len(seen),
        "kinds": dict(Counter(one.ask.kind for one in seen)),
        "answers_compared": sum(one.text is not None for one in seen),
        "errors": sum(one.error is not None for one in seen),
        "first_errors": [one.error for one in seen if one.error is not None][:_SHOWN],
        "different_from_reference": len(different),
        "first_different": [_shown(one, expected[one.ask.question]) for one in different[:_SHOWN]],
        "unexplained": len(unexplained),
        "first_unexplained": [_shown(one, expected[one.ask.question]) for one in unexplained[:_SHOWN]],
        "different_in_other_steps": in_other_steps,
        "in_other_steps": [
            {"seed": question[2], "max_tokens": question[1], **asdict(found)}
            for (question, _, _), found in explained.items()
            if found is not None
        ],
        "questions_with_a_draw_at_a_border": sum(bool(reference.others) for reference in expected.values()),
        "answers_of_another_question": foreign,
        "seconds": percentiles([one.seconds for one in prompt]),
        "seconds_to_first_token": percentiles(
            [one.first_seconds for one in whole if one.first_seconds is not None and one.ask.kind == "stream"]
        ),
    }


def _is(one: Seen, answer: str) -> bool:
    """Whether a client got this answer, as far as it read."""
    return one.text is not None and (one.text == answer if one.is_whole else answer.startswith(one.text))


def _shown(one: Seen, reference: Reference) -> dict[str, Any]:
    """Where an answer parts from its reference, and how near the draw is to a border there."""
    text, alone = one.text or "", reference.text
    at = next((at for at, pair in enumerate(zip(text, alone, strict=False)) if pair[0] != pair[1]), len(text))
    question = {"kind": one.ask.kind, "number": one.ask.number, "seed": one.ask.seed, "max_tokens": one.ask.max_tokens}
    near = min((near for other, near in reference.others.items() if _is(one, other)), default=None)
    return {**question, "at": at, "got": text[at : at + 40], "expected": alone[at : at + 40], "from_border": near}
