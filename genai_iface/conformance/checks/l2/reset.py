# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: emptied rows and closed caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance._failure import equal, expect, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import InvalidInputError

__all__: list[str] = []

_RAGGED = (Capability.BATCH, Capability.RAGGED)


@check("L2.reset.all", core="The next user must not see the last one's text.", spec=["KVCache.reset.1"])
def reset_all(context: Context) -> None:
    """reset() empties the cache; it is then like a new one."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=12)
    subject.model.forward(tokens[1:2, :9], cache, logits="none")
    cache.reset()
    equal(cache.lengths, [0], "lengths after reset()")
    for length in (1, 2, 3):
        got = subject.model.forward(tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length} after reset()")


@check("L2.reset.rows", requires=_RAGGED, spec=["KVCache.reset.1"])
def reset_rows(context: Context) -> None:
    """A reset row takes a new sequence; the others go on."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 16)
    subject.model.forward(tokens[[1, 1, 2], :6], cache, logits="none")
    cache.reset([0])
    equal(cache.lengths, [0, 6, 6], "lengths after reset([0])")
    step = padded([tokens[0, :4], tokens[1, 6:7], tokens[2, 6:8]])
    got = subject.model.forward(step["ids"], cache, counts=step["counts"])
    for row, length in enumerate((4, 7, 8)):
        subject.near(got[row, 0], row, length, f"logits of row {row} after reset([0])")


@check("L2.reset.no_rows", spec=["KVCache.reset.1"])
def reset_no_rows(context: Context) -> None:
    """reset([]) empties nothing."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    cache.reset(np.zeros(0, np.int64))
    equal(cache.lengths, [4], "lengths after reset([])")
    got = subject.model.forward(subject.golden.tokens[:1, 4:5], cache)
    subject.near(got[0, 0], 0, 5, "logits after reset([])")


@check("L2.reset.continuous_batching", requires=_RAGGED, spec=["KVCache.reset.1", "Model.forward.6"])
def continuous_batching(context: Context) -> None:
    """Slots are reused over and over while neighbours decode."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 24)
    step = padded([tokens[0, :3], tokens[1, :1]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    for turn in range(4):
        cache.reset([1])
        length = 2 + turn
        row = 1 + turn % 2
        step = padded([tokens[0, 3 + 2 * turn : 4 + 2 * turn], tokens[row, :length]])
        got = subject.model.forward(step["ids"], cache, counts=step["counts"])
        subject.near(got[0, 0], 0, 4 + 2 * turn, f"logits of the long row in turn {turn}")
        subject.near(got[1, 0], row, length, f"logits of the new sequence of turn {turn}")
        got = subject.model.forward([[tokens[0, 4 + 2 * turn]], [tokens[row, length]]], cache)
        subject.near(got[1, 0], row, length + 1, f"decoded logits of the new sequence of turn {turn}")


@check("L2.close.frees", spec=["KVCache.nbytes.2", "KVCache.close.2"])
def close_frees(context: Context) -> None:
    """After close() a cache holds no bytes; closing again does nothing."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    cache.close()
    equal(cache.nbytes, 0, "nbytes after close()")
    cache.close()


@check("L2.close.methods", spec=["KVCache.close.3"])
def close_methods(context: Context) -> None:
    """After close() every method but close() raises InvalidInputError."""
    subject = context.subject()
    cache: Any = context.cache(subject, capacity=12)
    subject.model.forward(subject.golden.tokens[:1, :5], cache, logits="none")
    cache.close()
    can = subject.model.capabilities
    calls: dict[str, Callable[[], object]] = {
        "can_rewind_to(5)": lambda: cache.can_rewind_to(5),
        "rewind_to(5)": lambda: cache.rewind_to(5),
        "reorder([0])": lambda: cache.reorder([0]),
        "reset()": cache.reset,
        "reset([])": lambda: cache.reset([]),
    }
    if Capability.FORK in can:
        calls["fork()"] = lambda: context.keep(cache.fork())
    if Capability.INSPECT in can:
        calls["read(0, 0)"] = lambda: cache.read(0, 0)
    for name, call in calls.items():
        raises(InvalidInputError, call, f"{name} of a closed cache")


@check("L2.close.properties", spec=["KVCache.close.4"])
def close_properties(context: Context) -> None:
    """After close() properties can be read, and those that describe the cache say what they said."""
    subject = context.subject()
    cache = context.cache(subject, capacity=12)
    before = cache.batch_size, cache.capacity, cache.bytes_per_token
    cache.close()
    equal((cache.batch_size, cache.capacity, cache.bytes_per_token), before, "(batch_size, capacity, bytes_per_token)")
    equal((len(cache.lengths), cache.nbytes), (1, 0), "(number of lengths, nbytes) of a closed cache")
    expect(cache.update_mode in ("in_place", "copied"), f"update_mode of a closed cache is {cache.update_mode!r}")


@check("L2.close.others_live", spec=["Model.create_cache.1"])
def others_live(context: Context) -> None:
    """Closing one cache leaves the others alone."""
    subject = context.subject()
    tokens = subject.golden.tokens
    first, second = context.cache(subject, capacity=8), context.cache(subject, capacity=8)
    for cache in (first, second):
        subject.model.forward(tokens[:1, :4], cache, logits="none")
    first.close()
    got = subject.model.forward(tokens[:1, 4:5], second)
    subject.near(got[0, 0], 0, 5, "logits of a cache after another was closed")
    expect(second.nbytes > 0, "closing one cache freed another")
