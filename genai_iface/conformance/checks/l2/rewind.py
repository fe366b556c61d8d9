# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: rewinding. What was forgotten never was."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import equal, expect, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import InvalidInputError

__all__: list[str] = []

_REWIND = (Capability.REWIND,)


@check(
    "L2.rewind.never_appended",
    core="What was taken back must not show again.",
    requires=_REWIND,
    spec=["KVCache.rewind_to.1"],
)
def never_appended(context: Context) -> None:
    """Rewind and go on with other tokens: as if the forgotten ones had never been."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=20)
    subject.model.forward(tokens[:1, :5], cache, logits="none")
    for token in tokens[1, :6]:
        subject.model.forward([[token]], cache, logits="none")
    cache.rewind_to(5)
    equal(cache.lengths, [5], "lengths after rewind_to(5)")
    for length in range(6, 10):
        got = subject.model.forward(tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length} after a rewind to 5")


@check("L2.rewind.then_chunk", requires=[*_REWIND, Capability.CHUNKED_PREFILL], spec=["KVCache.rewind_to.1"])
def then_chunk(context: Context) -> None:
    """After a rewind a whole chunk may follow."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=20)
    subject.model.forward(tokens[:1, :4], cache, logits="none")
    subject.model.forward(tokens[1:2, :9], cache, logits="none")
    cache.rewind_to(4)
    got = subject.model.forward(tokens[:1, 4:10], cache)
    subject.near(got[0, 0], 0, 10, "logits of a chunk after a rewind")


@check(
    "L2.rewind.per_row",
    core="One row's way back must not touch the others.",
    requires=[*_REWIND, Capability.BATCH, Capability.RAGGED],
    spec=["KVCache.rewind_to.1"],
)
def per_row(context: Context) -> None:
    """Each row goes back to its own length."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 20)
    subject.model.forward(tokens[:, :8], cache, logits="none")
    cache.rewind_to([8, 3, 5])
    equal(cache.lengths, [8, 3, 5], "lengths after rewind_to([8, 3, 5])")
    got = subject.model.forward(np.array([[tokens[0, 8]], [tokens[1, 3]], [tokens[2, 5]]]), cache)
    for row, length in enumerate((9, 4, 6)):
        subject.near(got[row, 0], row, length, f"logits of row {row} after a rewind of single rows")


@check("L2.rewind.to_zero", requires=_REWIND, spec=["KVCache.rewind_to.1"])
def to_zero(context: Context) -> None:
    """A rewind to 0 leaves an empty row."""
    subject = context.subject()
    cache = context.cache(subject, capacity=12)
    subject.model.forward(subject.golden.tokens[1:2, :9], cache, logits="none")
    cache.rewind_to(0)
    got = subject.model.forward(subject.golden.tokens[:1, :4], cache)
    subject.near(got[0, 0], 0, 4, "logits after a rewind to 0")


@check("L2.rewind.same_length", requires=_REWIND, spec=["KVCache.rewind_to.1"])
def same_length(context: Context) -> None:
    """A rewind to the present length changes nothing."""
    subject = context.subject()
    cache = context.cache(subject, capacity=12)
    subject.model.forward(subject.golden.tokens[:1, :5], cache, logits="none")
    cache.rewind_to(5)
    got = subject.model.forward(subject.golden.tokens[:1, 5:6], cache)
    subject.near(got[0, 0], 0, 6, "logits after a rewind to the present length")


@check("L2.rewind.can_rewind_agrees", spec=["KVCache.can_rewind_to.1"])
def can_rewind_agrees(context: Context) -> None:
    """can_rewind_to() says what rewind_to() will do, and changes nothing."""
    subject = context.subject()
    cache = context.cache(subject, capacity=12)
    subject.model.forward(subject.golden.tokens[:1, :6], cache, logits="none")
    for length in (6, 4, 0):
        said = cache.can_rewind_to(length)
        equal(cache.lengths, [6], "lengths after can_rewind_to()")
        if Capability.REWIND in subject.model.capabilities:
            expect(said, f"can_rewind_to({length}) is false, but rewind is declared")
    got = subject.model.forward(subject.golden.tokens[:1, 6:7], cache)
    subject.near(got[0, 0], 0, 7, "logits after can_rewind_to()")
    said = cache.can_rewind_to(3)
    if said:
        cache.rewind_to(3)
        equal(cache.lengths, [3], "lengths after a rewind that can_rewind_to() allowed")


@check("L2.rewind.refused", requires=_REWIND, spec=["KVCache.rewind_to.2"])
def refused(context: Context) -> None:
    """Lengths that are negative, too long, or of another number of rows are refused; nothing changes."""
    subject = context.subject()
    cache = context.cache(subject, capacity=12)
    subject.model.forward(subject.golden.tokens[:1, :5], cache, logits="none")
    for lengths in (-1, 6, [1, 2], [[1]]):
        what = f"rewind_to({lengths})"
        raises(InvalidInputError, lambda wrong=lengths: cache.rewind_to(wrong), what)  # type: ignore[misc]
    equal(cache.lengths, [5], "lengths after rewinds that were refused")
    got = subject.model.forward(subject.golden.tokens[:1, 5:6], cache)
    subject.near(got[0, 0], 0, 6, "logits after rewinds that were refused")


@check("L2.rewind.snapshot", requires=_REWIND, spec=["KVCache.rewind_to.1", "KVCache.lengths.1"])
def rewind_snapshot(context: Context) -> None:
    """rewind_to() keeps no reference to the caller's array."""
    subject = context.subject()
    cache = context.cache(subject, capacity=12)
    subject.model.forward(subject.golden.tokens[:1, :5], cache, logits="none")
    wanted = np.array([3])
    cache.rewind_to(wanted)
    wanted[:] = 99
    equal(cache.lengths, [3], "lengths after the caller's array was changed")


@check("L2.rewind.again_and_again", requires=_REWIND, spec=["KVCache.rewind_to.1"])
def again_and_again(context: Context) -> None:
    """Draft and verify: many rounds of a few tokens forth and some back."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=24)
    subject.model.forward(tokens[:1, :2], cache, logits="none")
    for length in range(2, 14, 2):
        for token in (7, 8, 9):
            subject.model.forward([[token]], cache, logits="none")
        cache.rewind_to(length)
        for place in (length, length + 1):
            got = subject.model.forward(tokens[:1, place : place + 1], cache)
        subject.near(got[0, 0], 0, length + 2, f"logits at length {length + 2} after many rewinds")
