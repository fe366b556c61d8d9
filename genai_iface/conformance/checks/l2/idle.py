# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: rows that wait while others run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, Subject, padded
from genai_iface.conformance._failure import equal, expect, same_bits
from genai_iface.conformance.registry import check
from genai_iface.protocols import KVCache, SupportsInspect

__all__: list[str] = []

_RAGGED = (Capability.BATCH, Capability.RAGGED)


@check(
    "L2.idle.unchanged",
    core="A slot that waits must not lose its user's text.",
    requires=_RAGGED,
    spec=["Model.forward.3"],
)
def idle_unchanged(context: Context) -> None:
    """A row with count 0 keeps its length, and goes on as if the step had not been."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 16)
    subject.model.forward(tokens[:2, :4], cache, logits="none")
    for begin in (4, 7):
        step = padded([[], tokens[1, begin : begin + 3]])
        subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    equal(cache.lengths, [4, 10], "lengths after two steps in which row 0 was idle")
    got = subject.model.forward([[tokens[0, 4]], [tokens[1, 10]]], cache)
    subject.near(got[0, 0], 0, 5, "logits of the row that had been idle")
    subject.near(got[1, 0], 1, 11, "logits of the row that had gone on")
    # Between decode steps too, which runtimes prepare for.
    cache = context.cache(subject, 3, 16)
    subject.model.forward(tokens[[0, 1, 0], :4], cache, logits="none")
    for column in (4, 5):
        subject.model.forward(tokens[[0, 1, 0], column : column + 1], cache)
    subject.model.forward([[tokens[0, 6]], [0], [tokens[0, 6]]], cache, counts=[1, 0, 1])
    got = subject.model.forward([[tokens[0, 7]], [tokens[1, 6]], [tokens[0, 7]]], cache)
    equal(cache.lengths, [8, 7, 8], "lengths after a decode step in which row 1 was idle, and one more")
    subject.near(got[1, 0], 1, 7, "logits of the row that had been idle in a decode step")
    subject.near(got[2, 0], 0, 8, "logits of the row that had not")


@check("L2.idle.bit_exact", requires=[*_RAGGED, Capability.INSPECT], spec=["Model.forward.3"])
def idle_bit_exact(context: Context) -> None:
    """An idle row's keys and values stay the same bit by bit."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 16)
    subject.model.forward(tokens[:2, :4], cache, logits="none")
    expect(isinstance(cache, SupportsInspect), "inspect is declared, but the cache has no read()")
    layers = range(len(subject.model.spec.cache.layers))
    before = [cache.read(layer, 0) for layer in layers]  # type: ignore[attr-defined]
    step = padded([[], tokens[1, 4:9]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    for layer in layers:
        for kind, old, new in zip(("keys", "values"), before[layer], cache.read(layer, 0), strict=True):  # type: ignore[attr-defined]
            same_bits(new, old, f"{kind} of layer {layer} of an idle row")


@check("L2.idle.all_rows", requires=_RAGGED, spec=["Model.forward.3"])
def idle_all_rows(context: Context) -> None:
    """A step in which no row has a token changes nothing."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 8)
    subject.model.forward(tokens[:2, :3], cache, logits="none")
    subject.model.forward(np.full((2, 4), -1), cache, counts=[0, 0])
    equal(cache.lengths, [3, 3], "lengths after a step without tokens")
    got = subject.model.forward(tokens[:2, 3:4], cache)
    for row in range(2):
        subject.near(got[row, 0], row, 4, f"logits of row {row} after a step without tokens")


@check(
    "L2.idle.longer_row",
    core="A slot that waits must not lose its user's text.",
    requires=[*_RAGGED, Capability.CHUNKED_PREFILL],
    spec=["Model.forward.3"],
)
def idle_longer_row(context: Context) -> None:
    """Buffers that are fitted to the rows that run keep what a longer row has, which waits."""
    for name, waits, grown in (("base", 20, (1, 1, 2, 5)), ("long", 4093, (3, 1, 253, 256, 512))):
        subject = context.subject(name)
        row = subject.golden.tokens[0]
        for place in (0, 1):
            cache = context.cache(subject, 2, subject.golden.context_length)
            _run_one(subject, cache, place, row[:waits])
            lengths = [0, 0]
            lengths[place] = waits
            for turn, count in enumerate(grown):
                other = 1 - place
                _run_one(subject, cache, other, row[lengths[other] : lengths[other] + count])
                lengths[other] += count
                equal(cache.lengths, lengths, f"lengths of {name!r} while row {place} waited")
                if turn % 2:
                    got = _run_one(subject, cache, place, row[lengths[place] : lengths[place] + 1])
                    lengths[place] += 1
                    what = f"logits of row {place} of {name!r}, which waited with {lengths[place] - 1} tokens"
                    subject.near(got[place, 0], 0, lengths[place], what)


def _run_one(subject: Subject, cache: KVCache, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """A step in which one of two rows runs."""
    step = padded([tokens if at == row else [] for at in range(2)])
    got: NDArray[np.float32] = subject.model.forward(step["ids"], cache, counts=step["counts"])
    return got
