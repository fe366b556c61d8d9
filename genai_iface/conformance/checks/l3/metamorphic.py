# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 3: two ways to the same logits. No reference is needed: the runtime is held against itself."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, Subject, padded
from genai_iface.conformance._failure import close, expect
from genai_iface.conformance.registry import check

__all__: list[str] = []

_CHUNKS = (Capability.CHUNKED_PREFILL,)
_SPEC = ("Model.forward.6",)


def _single(context: Context, subject: Subject, row: int, length: int, capacity: int = 24) -> NDArray[np.float32]:
    """The logits (V,) after a prompt in one step, alone in its cache."""
    cache = context.cache(subject, capacity=capacity)
    got: NDArray[np.float32] = subject.model.forward(subject.golden.tokens[row : row + 1, :length], cache)[0, 0]
    return got


@check(
    "L3.same.chunked_prefill", core="A prompt's answer must not depend on how it was cut.", requires=_CHUNKS, spec=_SPEC
)
def chunked_prefill(context: Context) -> None:
    """A prompt in chunks is a prompt in one step, however it is cut."""
    subject = context.subject()
    tokens = subject.golden.tokens[:1]
    whole = _single(context, subject, 0, 20)
    for sizes in ([10, 10], [1, 19], [19, 1], [7, 7, 6], [3] * 6 + [2], [1] * 20):
        cache = context.cache(subject, capacity=24)
        begin = 0
        for size in sizes:
            got = subject.model.forward(tokens[:, begin : begin + size], cache)
            begin += size
        close(got[0, 0], whole, subject.golden.tolerance, f"logits of a prompt cut into {sizes}")


@check(
    "L3.same.batch_row",
    core="A prompt's answer must not depend on its neighbors.",
    requires=[Capability.BATCH, Capability.RAGGED],
    spec=_SPEC,
)
def batch_row(context: Context) -> None:
    """A row of a batch is the same row alone."""
    subject = context.subject()
    tokens = subject.golden.tokens
    lengths = [12, 3, 8]
    step = padded([tokens[row, :length] for row, length in enumerate(lengths)])
    cache = context.cache(subject, 3, 24)
    first = subject.model.forward(step["ids"], cache, counts=step["counts"])
    then = subject.model.forward(np.array([[tokens[row, length]] for row, length in enumerate(lengths)]), cache)
    for row, length in enumerate(lengths):
        for got, size in ((first, length), (then, length + 1)):
            alone = _single(context, subject, row, size)
            close(got[row, 0], alone, subject.golden.tolerance, f"logits of row {row} of a batch at {size} tokens")


@check("L3.same.permuted_batch", requires=[Capability.BATCH, Capability.RAGGED], spec=_SPEC)
def permuted_batch(context: Context) -> None:
    """A permuted batch gives permuted logits."""
    subject = context.subject()
    tokens = subject.golden.tokens
    lengths = [12, 3, 8]

    def run(order: list[int]) -> list[NDArray[np.float32]]:
        step = padded([tokens[row, : lengths[row]] for row in order])
        cache = context.cache(subject, 3, 24)
        subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
        after = subject.model.forward(np.array([[tokens[row, lengths[row]]] for row in order]), cache)
        return [after[order.index(row), 0] for row in range(3)]

    straight = run([0, 1, 2])
    for order in ([2, 1, 0], [1, 2, 0]):
        for row, got in enumerate(run(order)):
            close(got, straight[row], subject.golden.tolerance, f"logits of row {row} in the order {order}")


@check("L3.same.large_batch", requires=[Capability.BATCH], spec=_SPEC)
def large_batch(context: Context) -> None:
    """Many equal rows give equal logits."""
    subject = context.subject()
    limit = context.info.limits.get("max_batch_size", 9)
    rows = min(9, limit)
    cache = context.cache(subject, rows, 12)
    tokens = np.repeat(subject.golden.tokens[:1, :7], rows, axis=0)
    subject.model.forward(tokens[:, :6], cache, logits="none")
    got = subject.model.forward(tokens[:, 6:], cache)
    for row in range(rows):
        subject.near(got[row, 0], 0, 7, f"logits of row {row} of {rows} equal ones")


@check(
    "L3.same.capacity",
    core="An answer must not depend on the room that was reserved.",
    spec=["Model.create_cache.2", "Model.forward.6"],
)
def capacity(context: Context) -> None:
    """The capacity does not change logits."""
    subject = context.subject()
    tight = _single(context, subject, 0, 11, 11)
    for size in (12, 16, 33, 48):
        got = _single(context, subject, 0, 11, size)
        close(got, tight, subject.golden.tolerance, f"logits with the capacity {size}, against 11")


@check("L3.same.growth", spec=["Model.create_cache.2", "Model.forward.6"])
def growth(context: Context) -> None:
    """A cache that grows while it decodes gives the logits of one that need not."""
    subject = context.subject("long")
    tokens = subject.golden.tokens[:1]
    length, step = 1100, 97
    cache = context.cache(subject)
    begin = 0
    can_chunk = Capability.CHUNKED_PREFILL in subject.model.capabilities
    while begin < length:
        size = min(step if can_chunk or not begin else 1, length - begin)
        got = subject.model.forward(tokens[:, begin : begin + size], cache)
        begin += size
    whole = subject.model.forward(tokens[:, :length], context.cache(subject, capacity=length))
    close(got, whole, subject.golden.tolerance, f"logits at {length} tokens on a cache without a capacity")


@check("L3.same.padding_width", requires=[Capability.BATCH, Capability.RAGGED], spec=["Model.forward.4"])
def padding_width(context: Context) -> None:
    """How far a step is padded does not matter."""
    subject = context.subject()
    tokens = subject.golden.tokens
    alone = _single(context, subject, 0, 3)
    for width in (4, 7, 15):
        step = padded([tokens[0, :3], tokens[1, :width]])
        got = subject.model.forward(step["ids"], context.cache(subject, 2, 24), counts=step["counts"])
        close(got[0, 0], alone, subject.golden.tolerance, f"logits of 3 tokens padded to {width}")


@check("L3.same.replay", requires=[Capability.REWIND], spec=["KVCache.rewind_to.1"])
def replay(context: Context) -> None:
    """Rewind and replay the same tokens: the same logits."""
    subject = context.subject()
    tokens = subject.golden.tokens[:1]
    cache = context.cache(subject, capacity=24)
    subject.model.forward(tokens[:, :6], cache, logits="none")
    first = [subject.model.forward(tokens[:, place : place + 1], cache) for place in range(6, 10)]
    cache.rewind_to(6)
    for place, before in zip(range(6, 10), first, strict=True):
        got = subject.model.forward(tokens[:, place : place + 1], cache)
        close(got, before, subject.golden.tolerance, f"logits of position {place}, replayed")


@check("L3.same.threads", requires=[Capability.THREADS], spec=["Model.create_cache.1", "Model.forward.6"])
def threads(context: Context) -> None:
    """Threads with caches of their own do not disturb each other."""
    subject = context.subject()
    tokens = subject.golden.tokens
    results: dict[int, list[NDArray[np.float32]]] = {}
    caches = [context.cache(subject, capacity=24) for _ in range(6)]
    start = threading.Barrier(len(caches))

    def work(index: int) -> None:
        row = tokens[index % 3 : index % 3 + 1]
        start.wait()
        steps = [subject.model.forward(row[:, :8], caches[index])]
        steps += [subject.model.forward(row[:, place : place + 1], caches[index]) for place in range(8, 24)]
        results[index] = [logits[0, 0] for logits in steps]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(caches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expect(len(results) == len(caches), "a step failed in a thread", finished=sorted(results))
    for index, steps in results.items():
        for place, got in enumerate(steps):
            subject.near(got, index % 3, 8 + place, f"logits of thread {index} at position {7 + place}")


@check("L3.same.layouts", spec=_SPEC)
def layouts(context: Context) -> None:
    """Rank-3 and rank-4 caches of the same weights give the same logits."""
    first, second = context.subject("base"), context.subject("rank3")
    tokens = first.golden.tokens[:1]
    caches = context.cache(first, capacity=24), context.cache(second, capacity=24)
    for begin, end in ((0, 7), (7, 8), (8, 9)):
        left = first.model.forward(tokens[:, begin:end], caches[0])
        right = second.model.forward(tokens[:, begin:end], caches[1])
        close(right, left, first.golden.tolerance, f"rank-3 logits at position {end - 1}, against rank 4")
