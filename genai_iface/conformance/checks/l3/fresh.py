# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 3: models that were made for this run from its seed, against float64 references that were computed then."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance.checks.l3.golden import own_logits
from genai_iface.conformance.registry import CheckFunction, check

__all__ = ["FRESH"]

FRESH = {
    "base": "grouped heads, two layers",
    "rank3": "a rank-3 cache of fixed positions",
    "group1": "as many key/value heads as query heads",
    "group8": "one key/value head",
    "head80": "head size 80",
    "partial": "half of each head rotated",
    "softcap": "capped attention scores",
    "ring": "a ring of 8 positions",
    "rings": "rings of 10 and 6 positions",
}
"""Architectures of fresh models, by the golden model that has the same."""

_FORMS = {
    "masked": "positions and the lengths of rows come as position_ids and attention_mask",
    "experts": "each token goes to two of four experts",
    "quantized": "weights in blocks of four and eight bits with zero points",
}
_STATES = {
    "conv": "short convolutions beside attention",
    "delta": "a gated delta rule behind a convolution, beside attention",
    "gated": "a gated rule beside attention",
    "alone": "nothing but states",
}

_CIRCULAR = ("ring", "rings")


def _agrees(context: Context, name: str) -> None:
    """Rows of a batch where there may be some: a ragged prompt, then token by token."""
    subject = context.fresh(name)
    if context.profile == "generator":
        own_logits(context, subject)
        return
    tokens = subject.golden.tokens
    can = subject.model.capabilities
    rows = len(tokens) if {Capability.BATCH, Capability.RAGGED} <= can else 1
    starts = [5, 1, 3][:rows]
    cache = context.cache(subject, rows, tokens.shape[1])
    step = padded([tokens[row, :start] for row, start in enumerate(starts)])
    got = subject.model.forward(step["ids"], cache, counts=step["counts"])
    for place in range(tokens.shape[1] - max(starts)):
        for row, start in enumerate(starts):
            subject.near(got[row, 0], row, start + place, f"logits of row {row} at {start + place} tokens")
        ids = np.array([[tokens[row, start + place]] for row, start in enumerate(starts)])
        got = subject.model.forward(ids, cache)


def _runner(name: str) -> CheckFunction:
    return lambda context: _agrees(context, name)


for _name, _title in FRESH.items():
    check(
        f"L3.fresh.{_name}",
        profiles=("step", "generator"),
        requires=[Capability.CACHE_CIRCULAR] if _name in _CIRCULAR else [],
        spec=["Model.forward.1", "Model.forward.6"],
        title=f"A model made for this run: {_title}",
        core="A model that nobody has seen cannot be known by heart.",
    )(_runner(_name))


for _name, _title in _FORMS.items():
    check(
        f"L3.fresh.{_name}",
        profiles=("step", "generator"),
        spec=["Model.forward.1", "Model.forward.6"],
        title=f"A model made for this run: {_title}",
    )(_runner(_name))

for _name, _title in _STATES.items():
    check(
        f"L3.fresh.state_{_name}",
        requires=[Capability.STATE],
        spec=["State.2", "Model.forward.1"],
        title=f"A model made for this run: {_title}",
    )(_runner(f"states-{_name}"))


@check("L3.fresh.another", spec=["Model.forward.1"], core="A model that nobody has seen cannot be known by heart.")
def another(context: Context) -> None:
    """Two models of one shape at once, with different weights."""
    first, second = context.fresh("base"), context.fresh("base", 1)
    caches = [context.cache(subject, capacity=16) for subject in (first, second)]
    for length in (4, 5, 6):
        for subject, cache in zip((first, second), caches, strict=True):
            begin = 0 if length == 4 else length - 1
            got = subject.model.forward(subject.golden.tokens[:1, begin:length], cache)
            subject.near(got[0, 0], 0, length, f"logits at {length} tokens")
