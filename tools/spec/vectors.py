# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Test vectors of the specification's sampling page.

    python -m tools.spec.vectors  # writes docs/spec/sampling-vectors.json

The tests hold the file against the SDK's loop, and against a second implementation that was written from the page
alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface import INTERFACE_VERSION, GenerationConfig
from genai_iface.generation.sampling.sampler import Sampler, uniform
from tools.spec.clauses import SPEC

__all__ = ["FILE", "as_text", "vectors"]

FILE = SPEC / "sampling-vectors.json"
_SEEDS = ((0, 0), (1, 0), (1, 1), (2**64 - 1, 7))


@dataclass(frozen=True)
class Case:
    """One configuration on one row of logits.

    Attributes:
        name: What it shows.
        config: Fields of GenerationConfig.
        logits: (V,), exact in float32.
        tokens: The sequence so far.
        num_new: How many of its last tokens were generated.
        stop_ids: What ends the sequence.
    """

    name: str
    config: dict[str, Any]
    logits: tuple[float, ...] = (1.5, -0.25, 3.0, 0.75, 2.25, -1.0, 3.0, 0.0, 2.0, -4.5, 1.0, 2.25)
    tokens: tuple[int, ...] = (4, 2, 6, 2, 8)
    num_new: int = 2
    stop_ids: tuple[int, ...] = field(default=(0,))


_DRAW = {"do_sample": True}
_FLAT = (0.5,) * 8
CASES = (
    Case("greedy, a tie", {}),
    Case("greedy, nothing but ties", {}, logits=_FLAT, tokens=(1,), num_new=0),
    Case("logit_bias", {"logit_bias": {9: 8.0, 2: -0.5}}),
    Case("repetition_penalty, once per token, positive and negative", {"repetition_penalty": 2.0}, tokens=(2, 6, 2, 9)),
    Case("repetition_penalty below 1", {"repetition_penalty": 0.5}, tokens=(8, 9)),
    Case("presence_penalty, generated tokens only", {"presence_penalty": 1.5}, tokens=(6, 4, 2, 2), num_new=2),
    Case("frequency_penalty, per occurrence", {"frequency_penalty": 0.5}, tokens=(6, 2, 2, 6, 2), num_new=4),
    Case("both", {"presence_penalty": 0.25, "frequency_penalty": 0.5}, tokens=(2, 2, 6, 6, 6), num_new=5),
    Case(
        "logit_bias comes before repetition_penalty",
        {"logit_bias": {9: 8.5}, "repetition_penalty": 2.0},
        tokens=(9, 2, 6),
    ),
    Case("no_repeat_ngram_size", {"no_repeat_ngram_size": 2}, tokens=(2, 6, 3, 2)),
    Case("no_repeat_ngram_size 1", {"no_repeat_ngram_size": 1}, tokens=(2, 6, 4)),
    Case("no_repeat_ngram_size, sequence too short", {"no_repeat_ngram_size": 4}, tokens=(2, 2, 2)),
    Case("bad_words_ids", {"bad_words_ids": [[2], [8, 6], [3, 4]]}),
    Case("bad_words_ids, a stop token alone stays", {"bad_words_ids": [[2], [6]]}, stop_ids=(2,)),
    Case("min_new_tokens", {"min_new_tokens": 3}, stop_ids=(2, 6)),
    Case("min_new_tokens, reached", {"min_new_tokens": 2}, stop_ids=(2, 6)),
    Case("temperature 0", {"temperature": 0.0, "top_k": 3}),
    Case("neutral draw", _DRAW),
    Case("temperature", {"temperature": 0.7}),
    Case("temperature, high", {"temperature": 50.0}),
    Case("temperature, tiny: a draw between ties", {"temperature": 1e-6}),
    Case("top_k", {"top_k": 3}),
    Case("top_k keeps ties with the last", {"top_k": 4}),
    Case("top_k beyond the vocabulary", {"top_k": 100}),
    Case("top_p", {"top_p": 0.8}),
    Case("top_p cuts ties by the lowest id", {"top_p": 0.3}, logits=_FLAT, tokens=(1,), num_new=0),
    Case("top_p, reached exactly", {"top_p": 0.5}, logits=_FLAT, tokens=(1,), num_new=0),
    Case("top_p, always one", {"top_p": 1e-9}),
    Case("min_p", {"min_p": 0.3}),
    Case("min_p 1: the likeliest and its ties", {"min_p": 1.0}),
    Case("typical_p", {"typical_p": 0.6}),
    Case("typical_p keeps ties with the last", {"typical_p": 0.2}, logits=_FLAT, tokens=(1,), num_new=0),
    Case(
        "typical_p leaves the likeliest out", {"typical_p": 0.2}, logits=(4.0, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5)
    ),
    Case("top_p of what top_k left", {"top_k": 4, "top_p": 0.6}),
    Case("all filters", {"temperature": 1.3, "top_k": 9, "top_p": 0.95, "min_p": 0.08, "typical_p": 0.9}),
    Case(
        "everything",
        {
            "logit_bias": {9: 7.0, 10: 0.5},
            "repetition_penalty": 1.2,
            "presence_penalty": 0.25,
            "frequency_penalty": 0.125,
            "no_repeat_ngram_size": 3,
            "bad_words_ids": [[2, 8], [7]],
            "min_new_tokens": 4,
            "temperature": 0.9,
            "top_k": 8,
            "top_p": 0.97,
            "min_p": 0.02,
            "typical_p": 0.98,
        },
        tokens=(2, 8, 3, 5, 2, 8),
        num_new=3,
    ),
)
"""One per rule of the page, and combinations."""


def vectors() -> dict[str, Any]:
    """The content of the file."""
    numbers = [
        {"seed": seed, "index": index, "position": position, "bits": int(uniform(seed, index, position) * 2**53)}
        for seed, index in _SEEDS
        for position in (0, 1, 2**32)
    ]
    return {"interface_version": INTERFACE_VERSION, "random_numbers": numbers, "cases": list(map(_answered, CASES))}


def as_text() -> str:
    """The file's text."""
    return "".join(_lines(vectors())) + "\n"


def _answered(case: Case) -> dict[str, Any]:
    config = GenerationConfig(**case.config)
    logits, tokens = np.array(case.logits, np.float32), np.array(case.tokens, np.int64)
    samplers = {seed: Sampler(config, vocab_size=len(logits), stop_ids=case.stop_ids, seed=seed) for seed, _ in _SEEDS}
    scores = logits.astype(np.float64)
    samplers[0].process(scores, tokens, case.num_new)
    law = samplers[0].probabilities(logits, tokens, case.num_new)
    draws = [
        {"seed": seed, "index": index, "token": samplers[seed].choose(logits, tokens, case.num_new, index)}
        for seed, index in (_SEEDS if config.samples else _SEEDS[:1])
    ]
    return {
        "name": case.name,
        "config": case.config,
        "logits": case.logits,
        "tokens": case.tokens,
        "num_new": case.num_new,
        "stop_ids": case.stop_ids,
        # -inf is not JSON: null.
        "scores": [value if value > -np.inf else None for value in scores.tolist()],
        "kept": np.flatnonzero(law).tolist(),
        "probabilities": [float(f"{value:.10g}") for value in law[law > 0]],
        "draws": draws,
    }


def _lines(content: dict[str, Any]) -> Iterator[str]:
    """JSON with one line per case, so that a difference can be read."""
    yield "{\n"
    for number, (name, value) in enumerate(content.items()):
        end = "" if number + 1 == len(content) else ","
        if isinstance(value, list):
            yield f'  "{name}": [\n'
            yield ",\n".join(f"    {json.dumps(item)}" for item in value)
            yield f"\n  ]{end}\n"
        else:
            yield f'  "{name}": {json.dumps(value)}{end}\n'
    yield "}"


def write(path: Path = FILE) -> None:
    """Writes the file."""
    new = path.with_suffix(".new")
    new.write_text(as_text(), encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    write()
