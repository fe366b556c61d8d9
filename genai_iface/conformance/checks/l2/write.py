# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: steps write where they must, and see what they must."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance._failure import equal
from genai_iface.conformance.registry import check

__all__: list[str] = []

_RAGGED = (Capability.BATCH, Capability.RAGGED)
_CHUNKS = (Capability.CHUNKED_PREFILL,)


@check("L2.write.prefill", core="The step that everything else is made of.", spec=["Model.forward.1"])
def prefill(context: Context) -> None:
    """A prompt in one step: token s is at position s and sees the tokens up to itself."""
    subject = context.subject()
    for length in (1, 2, 7, 24):
        got = subject.model.forward(subject.golden.tokens[:1, :length], context.cache(subject, capacity=24))
        subject.near(got[0, 0], 0, length, f"logits after a prompt of {length}")


@check(
    "L2.write.one_by_one",
    core="Decoding is this step, thousands of times.",
    spec=["Model.forward.1", "Model.forward.6"],
)
def one_by_one(context: Context) -> None:
    """Decoding token by token from an empty cache."""
    subject = context.subject()
    cache = context.cache(subject, capacity=24)
    for length in range(1, 25):
        got = subject.model.forward(subject.golden.tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of decode step {length}")


@check(
    "L2.write.chunk_at_offset",
    core="A wrong causal offset is silent and fluent.",
    requires=_CHUNKS,
    spec=["Model.forward.1", "Model.forward.6"],
)
def chunk_at_offset(context: Context) -> None:
    """A chunk of n tokens at an offset above 0: causal from the bottom right."""
    subject = context.subject()
    tokens = subject.golden.tokens[:1]
    for first, second in ((6, 5), (1, 9), (10, 2)):
        cache = context.cache(subject, capacity=24)
        subject.model.forward(tokens[:, :first], cache, logits="none")
        got = subject.model.forward(tokens[:, first : first + second], cache)
        subject.near(got[0, 0], 0, first + second, f"logits after a chunk of {second} at offset {first}")


@check(
    "L2.write.every_query_of_a_chunk",
    requires=[*_CHUNKS, Capability.LOGITS_ALL],
    spec=["Model.forward.1", "Model.forward.6"],
)
def every_query_of_a_chunk(context: Context) -> None:
    """Each token of a chunk at an offset sees exactly the tokens up to its own."""
    subject = context.subject()
    tokens = subject.golden.tokens[:1]
    cache = context.cache(subject, capacity=24)
    subject.model.forward(tokens[:, :5], cache, logits="none")
    got = subject.model.forward(tokens[:, 5:12], cache, logits="all")
    for index in range(7):
        subject.near(got[0, index], 0, 6 + index, f"logits of token {index} of a chunk at offset 5")


@check(
    "L2.write.per_row_indices",
    core="One index for all rows corrupts every batch.",
    requires=_RAGGED,
    spec=["Model.forward.1"],
)
def per_row_indices(context: Context) -> None:
    """Rows of different lengths: each is written at its own index."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 24)
    lengths = [5, 2, 9]
    step = padded([tokens[row, :length] for row, length in enumerate(lengths)])
    got = subject.model.forward(step["ids"], cache, counts=step["counts"])
    for row, length in enumerate(lengths):
        subject.near(got[row, 0], row, length, f"logits of row {row} after a ragged prompt")
    for extra in range(1, 4):
        ids = np.array([[tokens[row, length + extra - 1]] for row, length in enumerate(lengths)])
        got = subject.model.forward(ids, cache)
        for row, length in enumerate(lengths):
            subject.near(got[row, 0], row, length + extra, f"logits of row {row} at position {length + extra - 1}")


@check(
    "L2.write.ragged_chunk",
    core="Offset and width together are what the step is for.",
    requires=[*_RAGGED, *_CHUNKS],
    spec=["Model.forward.1", "Model.forward.2"],
)
def ragged_chunk(context: Context) -> None:
    """A chunk with another count and another offset in each row."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 24)
    lengths = np.zeros(3, np.int64)
    for counts in ([3, 6, 1], [4, 1, 5], [1, 3, 2]):
        step = padded([tokens[row, lengths[row] : lengths[row] + count] for row, count in enumerate(counts)])
        got = subject.model.forward(step["ids"], cache, counts=step["counts"])
        lengths += counts
        equal(cache.lengths, lengths, "lengths after a ragged chunk")
        for row in range(3):
            subject.near(got[row, 0], row, int(lengths[row]), f"logits of row {row} after {counts} tokens")


@check("L2.write.last_slot", spec=["Model.forward.1", "Model.forward.5"])
def last_slot(context: Context) -> None:
    """A row may be filled to its last position, token by token."""
    subject = context.subject()
    cache = context.cache(subject, capacity=9)
    subject.model.forward(subject.golden.tokens[:1, :7], cache)
    for length in (8, 9):
        got = subject.model.forward(subject.golden.tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, f"logits of token {length} of 9 positions")
    equal(cache.lengths, [9], "lengths of a full cache")


@check("L2.write.fill_at_once", spec=["Model.forward.1", "Model.forward.5"])
def fill_at_once(context: Context) -> None:
    """A prompt may fill a row completely."""
    subject = context.subject()
    got = subject.model.forward(subject.golden.tokens[:1, :13], context.cache(subject, capacity=13))
    subject.near(got[0, 0], 0, 13, "logits of a prompt that fills the cache")


@check("L2.write.chunk_to_last_slot", requires=_CHUNKS, spec=["Model.forward.1", "Model.forward.5"])
def chunk_to_last_slot(context: Context) -> None:
    """A chunk may end in the last position."""
    subject = context.subject()
    cache = context.cache(subject, capacity=11)
    subject.model.forward(subject.golden.tokens[:1, :6], cache)
    got = subject.model.forward(subject.golden.tokens[:1, 6:11], cache)
    subject.near(got[0, 0], 0, 11, "logits of a chunk up to the last position")


@check("L2.lengths.start_at_zero", spec=["Model.create_cache.3"])
def start_at_zero(context: Context) -> None:
    """A new cache is empty."""
    cache = context.cache(context.subject(), capacity=5)
    equal((cache.batch_size, cache.lengths.tolist()), (1, [0]), "(batch_size, lengths) of a new cache")
    equal(str(cache.lengths.dtype), "int64", "the dtype of lengths")


@check(
    "L2.lengths.grow_by_counts",
    core="Every later step is placed by these lengths.",
    requires=_RAGGED,
    spec=["Model.forward.2", "KVCache.batch_size.1"],
)
def grow_by_counts(context: Context) -> None:
    """A step adds exactly its counts to the lengths, whatever its width."""
    subject = context.subject()
    cache = context.cache(subject, 3, 16)
    subject.model.forward(np.ones((3, 6), np.int64), cache, counts=[6, 0, 2], logits="none")
    equal(cache.lengths, [6, 0, 2], "lengths after counts [6, 0, 2]")
    subject.model.forward(np.ones((3, 1), np.int64), cache, logits="none")
    equal(cache.lengths, [7, 1, 3], "lengths after one token each")
    equal(len(cache.lengths), cache.batch_size, "len(lengths)")


@check("L2.lengths.snapshot", spec=["KVCache.lengths.1"])
def snapshot(context: Context) -> None:
    """Lengths is a copy: writing to it changes nothing, and later steps do not change it."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :3], cache)
    before = cache.lengths
    subject.model.forward(subject.golden.tokens[:1, 3:4], cache)
    equal(before, [3], "an older copy of lengths after a step")
    now = cache.lengths
    if now.flags.writeable:
        now[:] = 99
    equal(cache.lengths, [4], "lengths after a caller wrote to a copy")


@check(
    "L2.padding.never_visible",
    core="Padding that leaks makes answers depend on the neighbors.",
    requires=_RAGGED,
    spec=["Model.forward.4"],
)
def padding_never_visible(context: Context) -> None:
    """What stands behind the real tokens influences nothing, now or later."""
    subject = context.subject()
    tokens = subject.golden.tokens
    for pad in (0, 1, subject.model.spec.vocab_size - 1):
        cache = context.cache(subject, 2, 24)
        step = padded([tokens[0, :2], tokens[1, :9]], pad)
        first = subject.model.forward(step["ids"], cache, counts=step["counts"])
        # Shorter than the padding was: garbage that is still in the buffer must stay hidden.
        second = subject.model.forward([[tokens[0, 2]], [tokens[1, 9]]], cache)
        subject.near(first[0, 0], 0, 2, f"logits of a row padded with {pad}")
        subject.near(second[0, 0], 0, 3, f"logits one step after padding with {pad}")


@check("L2.padding.illegal_ids", requires=_RAGGED, spec=["Model.forward.4"])
def padding_illegal_ids(context: Context) -> None:
    """Padding need not be a legal token id."""
    subject = context.subject()
    tokens = subject.golden.tokens
    for pad in (-1, -(2**40), 2**40):
        cache = context.cache(subject, 2, 12)
        step = padded([tokens[0, :3], tokens[1, :5]], pad)
        got = subject.model.forward(step["ids"], cache, counts=step["counts"])
        subject.near(got[0, 0], 0, 3, f"logits of a row padded with {pad}")


@check("L2.padding.overwritten", requires=[*_RAGGED, *_CHUNKS], spec=["Model.forward.4"])
def padding_overwritten(context: Context) -> None:
    """Tokens that come later take the places where padding was."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 24)
    step = padded([tokens[0, :1], tokens[1, :8]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    step = padded([tokens[0, 1:6], tokens[1, 8:10]])
    got = subject.model.forward(step["ids"], cache, counts=step["counts"])
    subject.near(got[0, 0], 0, 6, "logits of a row that overwrote its padding")
    subject.near(got[1, 0], 1, 10, "logits of the other row")
