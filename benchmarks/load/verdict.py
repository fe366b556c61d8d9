# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What many clients saw, as numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.load.client import Seen
from benchmarks.load.workload import Question

__all__ = ["judge", "percentiles"]

_SHOWN = 10


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 4), "p99": round(cuts[98], 4)}


def judge(seen: Sequence[Seen], expected: Mapping[Question, str]) -> dict[str, Any]:
    """Errors, and answers that are not those of their questions.

    An answer that was read to its end must equal its reference, one that was broken off must be its beginning.
    """
    wrong, foreign = [], 0
    texts = set(expected.values())
    for one in seen:
        reference = expected[one.ask.question]
        is_right = one.text is None or (one.text == reference if one.is_whole else reference.startswith(one.text))
        if not is_right:
            wrong.append(one)
            foreign += one.text in texts
    whole = [one for one in seen if one.is_whole]
    prompt = [one for one in whole if one.ask.kind in ("whole", "stream")]
    return {
        "requests": len(seen),
        "kinds": dict(Counter(one.ask.kind for one in seen)),
        "answers_compared": sum(one.text is not None for one in seen),
        "errors": sum(one.error is not None for one in seen),
        "first_errors": [one.error for one in seen if one.error is not None][:_SHOWN],
        "different_from_reference": len(wrong),
        "first_different": [_shown(one, expected[one.ask.question]) for one in wrong[:_SHOWN]],
        "answers_of_another_question": foreign,
        "seconds": percentiles([one.seconds for one in prompt]),
        "seconds_to_first_token": percentiles(
            [one.first_seconds for one in whole if one.first_seconds is not None and one.ask.kind == "stream"]
        ),
    }


def _shown(one: Seen, reference: str) -> dict[str, Any]:
    """Where an answer parts from its reference."""
    text = one.text or ""
    at = next((at for at, pair in enumerate(zip(text, reference, strict=False)) if pair[0] != pair[1]), len(text))
    question = {"kind": one.ask.kind, "number": one.ask.number, "seed": one.ask.seed, "max_tokens": one.ask.max_tokens}
    return {**question, "at": at, "got": text[at : at + 40], "expected": reference[at : at + 40]}
