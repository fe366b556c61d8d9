# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: what does not fit is refused before anything changes; padding needs no room of the caller's."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance._failure import equal, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import CacheOverflowError, InvalidInputError

__all__: list[str] = []

_RAGGED = (Capability.BATCH, Capability.RAGGED)


@check("L2.overflow.raises", spec=["Model.forward.5"])
def overflow_raises(context: Context) -> None:
    """One token too many is a CacheOverflowError that names row, need and capacity."""
    subject = context.subject()
    cache = context.cache(subject, capacity=6)
    subject.model.forward(subject.golden.tokens[:1, :6], cache)
    step = subject.golden.tokens[:1, 6:7]
    error = raises(CacheOverflowError, lambda: subject.model.forward(step, cache), "a token beyond the capacity")
    equal((error.row, error.needed, error.capacity), (0, 7, 6), "(row, needed, capacity) of the error")


@check("L2.overflow.prompt", spec=["Model.forward.5"])
def overflow_prompt(context: Context) -> None:
    """A prompt longer than the capacity is refused as a whole."""
    subject = context.subject()
    cache = context.cache(subject, capacity=6)
    step = subject.golden.tokens[:1, :9]
    raises(CacheOverflowError, lambda: subject.model.forward(step, cache), "a prompt beyond the capacity")
    equal(cache.lengths, [0], "lengths after a prompt was refused")
    got = subject.model.forward(step[:, :5], cache)
    subject.near(got[0, 0], 0, 5, "logits of a prompt after another was refused")


@check(
    "L2.overflow.before_anything_changes",
    core="Out of room must leave something to go on with.",
    requires=_RAGGED,
    spec=["Model.forward.5", "Model.forward.7"],
)
def before_anything_changes(context: Context) -> None:
    """If one row overflows, no row changes."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 6)
    step = padded([tokens[0, :2], tokens[1, :6]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    error = raises(
        CacheOverflowError,
        lambda: subject.model.forward(np.full((2, 2), 7), cache, counts=[2, 1]),
        "a step in which row 1 overflows",
    )
    equal((error.row, error.needed), (1, 7), "(row, needed) of the error")
    equal(cache.lengths, [2, 6], "lengths after the refusal")
    got = subject.model.forward([[tokens[0, 2]], [-1]], cache, counts=[1, 0])
    subject.near(got[0, 0], 0, 3, "logits of row 0 after the refusal")


@check("L2.overflow.padding_does_not_count", requires=_RAGGED, spec=["Model.forward.5"])
def padding_does_not_count(context: Context) -> None:
    """Overflow is judged on real tokens alone: padding beyond the capacity is not an overflow."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 8)
    step = padded([tokens[0, :7], tokens[1, :2]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    step = padded([tokens[0, 7:8], tokens[1, 2:7]])
    got = subject.model.forward(step["ids"], cache, counts=step["counts"])
    subject.near(got[0, 0], 0, 8, "logits of the row whose padding has no room")
    subject.near(got[1, 0], 1, 7, "logits of the other row")


@check("L2.overflow.full_row_idles", requires=_RAGGED, spec=["Model.forward.3", "Model.forward.5"])
def full_row_idles(context: Context) -> None:
    """A full row may idle while others go on, and stays as it is."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 8)
    step = padded([tokens[0, :8], tokens[1, :2]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    for begin in (2, 4):
        step = padded([[], tokens[1, begin : begin + 2]])
        subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    equal(cache.lengths, [8, 6], "lengths while row 0 is full and idle")
    if Capability.REWIND in subject.model.capabilities:
        cache.rewind_to([7, 6])
        got = subject.model.forward([[tokens[0, 7]], [tokens[1, 6]]], cache)
        subject.near(got[0, 0], 0, 8, "logits of the row that had been full")
        subject.near(got[1, 0], 1, 7, "logits of the other row")


@check("L2.overflow.whole_context", spec=["Model.forward.5"])
def whole_context(context: Context) -> None:
    """The context length can be used up to its last token, and no further."""
    subject = context.subject()
    length = subject.golden.context_length
    cache = context.cache(subject, capacity=length)
    subject.model.forward(np.ones((1, length - 1), np.int64), cache, logits="none")
    subject.model.forward([[1]], cache, logits="none")
    equal(cache.lengths, [length], "lengths at the end of the context")
    raises(CacheOverflowError, lambda: subject.model.forward([[1]], cache), "a token beyond the context")


@check("L2.overflow.fixed_buffers", spec=["Model.forward.5", "Model.create_cache.2"])
def fixed_buffers(context: Context) -> None:
    """A graph that fixes its buffers sets the capacity; the last position works, one more is refused."""
    subject = context.subject("rank3")
    fixed = subject.model.spec.cache.fixed_capacity
    if fixed is not None:
        raises(
            InvalidInputError, lambda: subject.model.create_cache(capacity=fixed + 1), "more than the fixed positions"
        )
    cache = context.cache(subject, capacity=12)
    got = subject.model.forward(subject.golden.tokens[:1, :12], cache)
    subject.near(got[0, 0], 0, 12, "logits of a row that is full before the buffer is")
    step = subject.golden.tokens[:1, 12:13]
    raises(CacheOverflowError, lambda: subject.model.forward(step, cache), "a token beyond the capacity asked for")
