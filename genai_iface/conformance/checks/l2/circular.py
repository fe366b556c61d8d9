# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: circular caches. They keep their last tokens and forget the others."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance._failure import equal, expect, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import CacheRewindError, UnsupportedCapabilityError

__all__: list[str] = []

_RING = (Capability.CACHE_CIRCULAR,)


@check("L2.circular.wraps", requires=_RING, spec=["Model.forward.1"])
def wraps(context: Context) -> None:
    """Decoding past the window, several times around: the last tokens count, wherever they are in the buffer."""
    subject = context.subject("ring")
    cache = context.cache(subject, capacity=24)
    for length in range(1, 25):
        got = subject.model.forward(subject.golden.tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length}, window {subject.golden.window}")
    equal(cache.lengths, [24], "lengths, which go on counting")


@check("L2.circular.rows", requires=[*_RING, Capability.BATCH], spec=["Model.forward.6"])
def ring_rows(context: Context) -> None:
    """Rows of one circular cache wrap independently."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 24)
    for length in range(1, 13):
        got = subject.model.forward(tokens[:, length - 1 : length], cache)
    cache.reset([1])
    for extra in range(3):
        ids = np.array([[tokens[0, 12 + extra]], [tokens[1, extra]], [tokens[2, 12 + extra]]])
        got = subject.model.forward(ids, cache)
    for row, length in enumerate((15, 3, 15)):
        subject.near(got[row, 0], row, length, f"logits of row {row} after row 1 was reset")


@check("L2.circular.short_prompt", requires=_RING, spec=["Model.forward.1"])
def short_prompt(context: Context) -> None:
    """A prompt up to the window, in one step."""
    subject = context.subject("ring")
    window = subject.golden.window or 0
    for length in (1, window - 1, window):
        got = subject.model.forward(subject.golden.tokens[:1, :length], context.cache(subject, capacity=24))
        subject.near(got[0, 0], 0, length, f"logits after a prompt of {length}, window {window}")


@check("L2.circular.long_prompt", requires=_RING, spec=["Model.forward.1", "Model.forward.6"])
def long_prompt(context: Context) -> None:
    """A prompt longer than the window, and a chunk that wraps: each query sees its own window."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens[:1]
    cache = context.cache(subject, capacity=24)
    got = subject.model.forward(tokens[:, :13], cache)
    subject.near(got[0, 0], 0, 13, "logits after a prompt longer than the window")
    got = subject.model.forward(tokens[:, 13:18], cache)
    subject.near(got[0, 0], 0, 18, "logits after a chunk that wraps")


@check("L2.circular.refuses_rewind", requires=_RING, spec=["KVCache.rewind_to.2", "KVCache.can_rewind_to.1"])
def refuses_rewind(context: Context) -> None:
    """A rewind that would need overwritten positions is refused; nothing changes."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=24)
    for place in range(12):
        subject.model.forward(tokens[:1, place : place + 1], cache, logits="none")
    expect(not cache.can_rewind_to(11), "can_rewind_to(11) is true on a ring of 8 positions that holds 12 tokens")
    error = raises(CacheRewindError, lambda: cache.rewind_to(11), "a rewind past the window")
    equal((error.row, error.requested, error.length), (0, 11, 12), "(row, requested, length) of the error")
    equal(cache.lengths, [12], "lengths after the refusal")
    got = subject.model.forward(tokens[:1, 12:13], cache)
    subject.near(got[0, 0], 0, 13, "logits after the refusal")


@check("L2.circular.two_windows", requires=_RING, spec=["Model.forward.1"])
def two_windows(context: Context) -> None:
    """Layers with windows of different sizes: each keeps its own last tokens."""
    subject = context.subject("rings")
    tokens = subject.golden.tokens[:1]
    cache = context.cache(subject, capacity=20)
    got = subject.model.forward(tokens[:, :5], cache)
    subject.near(got[0, 0], 0, 5, "logits of a prompt, windows 10 and 6")
    for length in range(6, 15):
        got = subject.model.forward(tokens[:, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length}, windows 10 and 6")


@check("L2.circular.every_window", requires=_RING, spec=["KVCache.rewind_to.3", "KVCache.can_rewind_to.1"])
def every_window(context: Context) -> None:
    """A rewind is refused if only a later layer, with a smaller window, has overwritten what it needs."""
    subject = context.subject("rings")
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=20)
    for place in range(8):
        subject.model.forward(tokens[:1, place : place + 1], cache, logits="none")
    expect(not cache.can_rewind_to(7), "can_rewind_to(7) is true, but layer 1 keeps 6 of the 8 tokens")
    raises(CacheRewindError, lambda: cache.rewind_to(7), "a rewind past the smaller window")
    equal(cache.lengths, [8], "lengths after the refusal")
    got = subject.model.forward(tokens[:1, 8:9], cache)
    subject.near(got[0, 0], 0, 9, "logits after the refusal")


@check("L2.circular.rewind_before_wrap", requires=_RING, spec=["KVCache.can_rewind_to.1", "KVCache.rewind_to.1"])
def rewind_before_wrap(context: Context) -> None:
    """Before it wraps a ring may allow a rewind; if it says so, it must be right."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=24)
    subject.model.forward(tokens[1:2, :6], cache, logits="none")
    if not cache.can_rewind_to(0):
        raises(CacheRewindError, lambda: cache.rewind_to(0), "a rewind that can_rewind_to() denies")
        return
    cache.rewind_to(0)
    for length in range(1, 11):
        got = subject.model.forward(tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length} after a rewind of a ring")


@check("L2.circular.reset", requires=_RING, spec=["KVCache.reset.2"])
def ring_reset(context: Context) -> None:
    """A ring that has wrapped can be emptied."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=24)
    for place in range(12):
        subject.model.forward(tokens[1:2, place : place + 1], cache, logits="none")
    cache.reset()
    for length in range(1, 11):
        got = subject.model.forward(tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length} after a reset of a wrapped ring")


@check("L2.circular.padding", requires=[*_RING, Capability.BATCH, Capability.RAGGED], spec=["Model.forward.4"])
def ring_padding(context: Context) -> None:
    """A padded step on a ring is refused or right; padding never overwrites a valid token."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 24)
    for place in range(9):
        subject.model.forward(tokens[:2, place : place + 1], cache, logits="none")
    step = padded([tokens[0, 9:10], tokens[1, 9:13]])
    lengths = [10, 13]
    try:
        got = subject.model.forward(step["ids"], cache, counts=step["counts"])
    except UnsupportedCapabilityError:
        equal(cache.lengths, [9, 9], "lengths after a padded step was refused")
        lengths = [10, 10]
        got = subject.model.forward(tokens[:2, 9:10], cache)
    for row, length in enumerate(lengths):
        subject.near(got[row, 0], row, length, f"logits of row {row} after a padded step on a ring")
    got = subject.model.forward(np.array([[tokens[row, length]] for row, length in enumerate(lengths)]), cache)
    for row, length in enumerate(lengths):
        subject.near(got[row, 0], row, length + 1, f"logits of row {row} one step later")
