# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: capacity, memory, isolation, and who owns which array."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import close, equal, expect
from genai_iface.conformance.registry import check

__all__: list[str] = []


@check("L2.isolation.two_caches", core="Two users must not see each other's text.", spec=["Model.create_cache.1"])
def two_caches(context: Context) -> None:
    """Two caches of one model know nothing of each other."""
    subject = context.subject()
    tokens = subject.golden.tokens
    caches = [context.cache(subject, capacity=12) for _ in range(2)]
    for row, cache in enumerate(caches):
        subject.model.forward(tokens[row : row + 1, :4], cache, logits="none")
    for length in range(5, 9):
        for row, cache in enumerate(caches):
            got = subject.model.forward(tokens[row : row + 1, length - 1 : length], cache)
            subject.near(got[0, 0], row, length, f"logits of cache {row} in turns with the other")


@check("L2.isolation.two_models", spec=["Model.create_cache.1"])
def two_models(context: Context) -> None:
    """Two models of one backend know nothing of each other."""
    first, second = context.subject(), context.subject("group3")
    caches = context.cache(first, capacity=12), context.cache(second, capacity=12)
    for length in range(1, 7):
        for subject, cache in zip((first, second), caches, strict=True):
            got = subject.model.forward(subject.golden.tokens[:1, length - 1 : length], cache)
            subject.near(got[0, 0], 0, length, f"logits of {subject.golden.name} in turns with another model")


@check(
    "L2.isolation.rows",
    core="Two users must not see each other's text.",
    requires=[Capability.BATCH],
    spec=["Model.forward.6"],
)
def rows(context: Context) -> None:
    """A row does not depend on its neighbours."""
    subject = context.subject()
    tokens = subject.golden.tokens
    for neighbour in (1, 2):
        for place in (0, 1):
            cache = context.cache(subject, 2, 12)
            pair = [0, neighbour] if place == 0 else [neighbour, 0]
            subject.model.forward(tokens[pair, :5], cache, logits="none")
            got = subject.model.forward(tokens[pair, 5:6], cache)
            subject.near(got[place, 0], 0, 6, f"logits of a row at place {place} beside row {neighbour}")


@check("L2.capacity.constant", spec=["KVCache.capacity.1"])
def capacity_constant(context: Context) -> None:
    """Capacity is what was asked for and never changes."""
    subject = context.subject()
    cache = context.cache(subject, capacity=23)
    equal(cache.capacity, 23, "capacity of a new cache")
    for place in range(23):
        subject.model.forward(subject.golden.tokens[:1, place : place + 1], cache, logits="none")
        equal(cache.capacity, 23, f"capacity at {place + 1} tokens")
    cache.reset()
    equal(cache.capacity, 23, "capacity after reset()")


@check("L2.capacity.default", spec=["Model.create_cache.2"])
def capacity_default(context: Context) -> None:
    """Without a capacity a cache holds as much as the model allows."""
    subject = context.subject()
    cache = context.cache(subject)
    equal(cache.capacity, subject.golden.context_length, "capacity by default")
    got = subject.model.forward(subject.golden.tokens[:1], cache)
    subject.near(got[0, 0], 0, subject.golden.tokens.shape[1], "logits on a cache without a capacity")


@check("L2.memory.holds_content", spec=["KVCache.nbytes.1", "KVCache.bytes_per_token.1"])
def holds_content(context: Context) -> None:
    """Nbytes covers the longest row, bytes_per_token is what the spec says."""
    subject = context.subject()
    cache = context.cache(subject, capacity=20)
    equal(cache.bytes_per_token, subject.model.spec.cache.bytes_per_token, "bytes_per_token")
    for _ in range(2):
        subject.model.forward(subject.golden.tokens[:1, :9], cache, logits="none")
        longest = int(cache.lengths.max())
        expect(
            cache.nbytes >= longest * cache.bytes_per_token,
            "nbytes is less than the content",
            nbytes=cache.nbytes,
            content=longest * cache.bytes_per_token,
        )


@check("L2.memory.growth", requires=[Capability.GROWTH], spec=["Model.capabilities.2"])
def growth(context: Context) -> None:
    """With "growth" declared, a short content does not take the memory of the whole capacity."""
    subject = context.subject("long")
    cache = context.cache(subject)
    subject.model.forward(subject.golden.tokens[:1, :8], cache, logits="none")
    whole = subject.golden.context_length * cache.bytes_per_token
    expect(2 * cache.nbytes <= whole, "a short content takes over half the memory", nbytes=cache.nbytes, whole=whole)


@check("L2.memory.update_mode", spec=["KVCache.update_mode.1"])
def update_mode(context: Context) -> None:
    """update_mode has a legal value, and is "in_place" after steps if that is declared."""
    subject = context.subject()
    cache = context.cache(subject, capacity=16)
    expect(cache.update_mode in ("in_place", "copied"), "update_mode is unknown", got=cache.update_mode)
    subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    for place in range(4, 8):
        subject.model.forward(subject.golden.tokens[:1, place : place + 1], cache, logits="none")
        expect(cache.update_mode in ("in_place", "copied"), "update_mode is unknown", got=cache.update_mode)
        if Capability.IN_PLACE in subject.model.capabilities:
            equal(cache.update_mode, "in_place", "update_mode after a step of a model that declares in_place")


@check("L2.arrays.arguments_untouched", requires=[Capability.BATCH, Capability.RAGGED], spec=["Model.forward.8"])
def arguments_untouched(context: Context) -> None:
    """A step does not write to its arguments."""
    subject = context.subject()
    ids = np.array([[1, 2, -7], [3, -7, -7]])
    counts = np.array([2, 1])
    kept = ids.copy(), counts.copy()
    subject.model.forward(ids, context.cache(subject, 2, 8), counts=counts)
    equal(ids, kept[0], "input_ids after a step")
    equal(counts, kept[1], "counts after a step")


@check("L2.arrays.read_only_arguments", spec=["Model.forward.8", "Interface.2"])
def read_only_arguments(context: Context) -> None:
    """Arguments may be read-only, strided, of a smaller integer type, or lists."""
    subject = context.subject()
    row = subject.golden.tokens[0, :5]
    frozen = row[None].copy()
    frozen.flags.writeable = False
    strided = np.repeat(row, 2)[None, ::2]
    for ids in (frozen, strided, row[None].astype(np.int32), row[None].astype(np.uint8), [row.tolist()]):
        got = subject.model.forward(ids, context.cache(subject, capacity=8))
        kind = f"{type(ids).__name__} {getattr(ids, 'dtype', '')}"
        subject.near(got[0, 0], 0, 5, f"logits for input_ids as {kind}")


@check("L2.arrays.result_belongs_to_caller", spec=["Model.forward.8"])
def result_belongs_to_caller(context: Context) -> None:
    """Later steps do not change logits that were returned, and writing to them does no harm."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=12)
    first = subject.model.forward(tokens[:1, :4], cache)
    kept = first.copy()
    second = subject.model.forward(tokens[:1, 4:5], cache)
    close(first, kept, 0.0, "logits of an earlier step after a later one")
    expect(second.flags.writeable, "the returned logits are read-only")
    second[:] = 0
    got = subject.model.forward(tokens[:1, 5:6], cache)
    subject.near(got[0, 0], 0, 6, "logits after a caller overwrote the ones before")


@check("L2.arrays.input_belongs_to_caller", spec=["Model.forward.8", "Model.forward.1"])
def input_belongs_to_caller(context: Context) -> None:
    """A caller may reuse its array of token ids for the next step."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=12)
    ids = tokens[:1, :4].copy()
    subject.model.forward(ids, cache, logits="none")
    ids[:] = 0
    got = subject.model.forward(tokens[:1, 4:5], cache)
    subject.near(got[0, 0], 0, 5, "logits after the caller overwrote its token ids")
