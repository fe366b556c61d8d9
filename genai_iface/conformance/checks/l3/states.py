# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 3: logits of models that keep states, after every token, against float64 references of whole sequences."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, Subject
from genai_iface.conformance._failure import close, expect
from genai_iface.conformance.checks.l2._state_models import (
    LINEAR,
    MODELS,
    checked_step,
    kernel_of,
    near_next,
    state_subject,
)
from genai_iface.conformance.registry import CheckFunction, check

__all__: list[str] = []

_ALL = (Capability.STATE, Capability.LOGITS_ALL, Capability.CHUNKED_PREFILL)
_RAGGED = (*_ALL, Capability.BATCH, Capability.RAGGED)

_TITLES = {
    "conv": "Short convolutions beside attention",
    "delta": "A gated delta rule behind a convolution, beside attention",
    "gated": "A gated rule (Mamba-2) beside attention",
    "alone": "Nothing but states: no keys and values, no positions",
    "ring": "States beside a circular layer that wraps",
    "uncounted": "A graph that is not told where padding begins",
}


def _agrees(context: Context, name: str, dtype: str | None = None) -> None:
    """Fails unless a prompt, a chunk and decode steps give the reference logits at every position."""
    subject = state_subject(context, name, dtype)
    cache = context.cache(subject, 1, 24)
    end = checked_step(subject, cache, [0], [11], f"of {name!r}, a prompt")
    end = checked_step(subject, cache, end, [4], f"of {name!r}, a chunk")
    while end[0] < 24:
        end = checked_step(subject, cache, end, [1], f"of {name!r}, a decode step")


def _runner(name: str) -> CheckFunction:
    return lambda context: _agrees(context, name)


for _name in MODELS:
    check(f"L3.state.{_name}", requires=_ALL, spec=["State.2", "Model.forward.1"], title=_TITLES[_name])(_runner(_name))


@check("L3.state.float16", requires=_ALL, spec=["State.2", "Model.forward.1"])
def float16(context: Context) -> None:
    """float16 weights and convolution states beside float32 matrices, where they are declared."""
    for name in ("conv", "delta", "gated"):
        _agrees(context, name, "float16")


@check("L3.state.bfloat16", requires=_ALL, spec=["State.2", "Model.forward.1"])
def bfloat16(context: Context) -> None:
    """bfloat16 weights and convolution states beside float32 matrices, where they are declared."""
    for name in ("conv", "delta", "gated"):
        _agrees(context, name, "bfloat16")


@check("L3.state.chunk_borders", requires=_ALL, spec=["State.2", "Model.forward.6"])
def chunk_borders(context: Context) -> None:
    """Chunks of 1, K - 1, K and many tokens in turn: every token's logits, wherever the border falls."""
    for name in MODELS:
        subject, kernel = state_subject(context, name), kernel_of(name)
        for sizes in ([1, kernel - 1, kernel, 12], [12, kernel, kernel - 1, 1], [kernel - 1, 12, 1, kernel]):
            cache = context.cache(subject, 1, 24)
            end: Sequence[int] = [0]
            for size in sizes:
                end = checked_step(subject, cache, end, [size], f"of {name!r} in chunks of {sizes}")


@check("L3.state.counts_differ", requires=_RAGGED, spec=["State.1", "Model.forward.6"])
def counts_differ(context: Context) -> None:
    """Every real token of steps in which each row has another count, idle rows among them."""
    for name in MODELS:
        subject = state_subject(context, name)
        cache, ends = context.cache(subject, 3, 24), [0, 0, 0]
        for counts in ([6, 1, 3], [0, 5, 1], [1, 1, 1], [2, 0, 9], [1, 3, 0], [1, 1, 1]):
            ends = list(checked_step(subject, cache, ends, counts, f"of {name!r} in a step of {counts}"))


@check("L3.state.batch_row", requires=_RAGGED, spec=["State.1", "Model.forward.6"])
def batch_row(context: Context) -> None:
    """A row of a batch is the same row alone, wherever it stands and whatever its neighbours do."""
    for name in LINEAR:
        subject = state_subject(context, name)
        tokens = subject.golden.tokens
        alone = context.cache(subject, 1, 24)
        subject.model.forward(tokens[:1, :7], alone)
        single = [subject.model.forward(tokens[:1, at : at + 1], alone)[0, 0] for at in range(7, 11)]
        for place in range(3):
            order = [*[1, 2][:place], 0, *[1, 2][place:]]
            cache = context.cache(subject, 3, 24)
            counts = np.array([7 if row == 0 else 2 for row in order])
            subject.model.forward(tokens[order, :7], cache, counts=counts)
            for at in range(4):
                ids = [[tokens[row, (7 if row == 0 else 2) + at]] for row in order]
                got = subject.model.forward(np.array(ids), cache)
                what = f"logits of a row of {name!r} at place {place} of a batch, {at + 1} steps after its prompt"
                close(got[place, 0], single[at], subject.golden.tolerance, what)


@check("L3.state.padding_width", requires=_RAGGED, spec=["State.1", "Model.forward.4"])
def padding_width(context: Context) -> None:
    """How far a step is padded, and with what, does not get into a state."""
    for name in LINEAR:
        subject = state_subject(context, name)
        tokens = subject.golden.tokens
        for width, pad in ((4, 0), (5, 39), (9, 7), (18, 39)):
            cache = context.cache(subject, 2, 24)
            ids = np.full((2, width), pad, np.int64)
            ids[0, :3], ids[1] = tokens[0, :3], tokens[1, :width]
            subject.model.forward(ids, cache, counts=np.array([3, width]))
            near_next(subject, cache, [3, width], f"of {name!r}, padded to {width} with {pad}")
            near_next(subject, cache, [4, width + 1], f"of {name!r}, padded to {width}, one token later")


@check("L3.state.replay", requires=[*_ALL, Capability.REWIND_STEP], spec=["State.5", "KVCache.rewind_to.1"])
def replay(context: Context) -> None:
    """After a rewind to where a step began its tokens give the same logits again, as other tokens give theirs."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 1, 24)
        end = checked_step(subject, cache, [0], [6], f"of {name!r}")
        for turn in range(3):
            for other in ([[7, 8, 9, 1, 2]], [[3]]):
                subject.model.forward(other, cache)
                cache.rewind_to(end)
            again = checked_step(subject, cache, end, [4], f"of {name!r}, replay {turn + 1}")
            if turn < 2:
                cache.rewind_to(end)
        checked_step(subject, cache, again, [1], f"of {name!r} after replays")


@check("L3.state.checkpoint_replay", requires=[*_ALL, Capability.CHECKPOINT], spec=["SupportsCheckpoint.checkpoint.1"])
def checkpoint_replay(context: Context) -> None:
    """After a rewind to a checkpoint many steps back every token gives its logits again."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 1, 24)
        ends = [checked_step(subject, cache, [0], [5], f"of {name!r}")]
        cache.checkpoint()  # type: ignore[attr-defined]
        ends.append(checked_step(subject, cache, ends[0], [3], f"of {name!r}"))
        cache.checkpoint()  # type: ignore[attr-defined]
        for end in (ends[1], ends[0]):
            for token in (4, 30, 11):
                subject.model.forward([[token]], cache)
            cache.rewind_to(end)
            after = end
            for size in (2, 1, 4):
                after = checked_step(subject, cache, after, [size], f"of {name!r} from its checkpoint at {end[0]}")


@check("L3.state.threads", requires=[*_ALL, Capability.THREADS], spec=["Model.create_cache.1", "Model.forward.6"])
def threads(context: Context) -> None:
    """Threads with caches of their own do not disturb each other's states."""
    for name in ("delta", "alone"):
        _in_threads(context, state_subject(context, name))


def _in_threads(context: Context, subject: Subject) -> None:
    tokens = subject.golden.tokens
    results: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
    caches = [context.cache(subject, 1, 24) for _ in range(6)]
    start = threading.Barrier(len(caches))

    def work(index: int) -> None:
        row, at, steps = index % 3, 0, []
        start.wait()
        for size in (7, 1, 1, 3, *[1] * 12):
            got = subject.model.forward(tokens[row : row + 1, at : at + size], caches[index])
            at += size
            steps.append((at, got[0, 0]))
        results[index] = steps

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(caches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expect(len(results) == len(caches), "a step failed in a thread", finished=sorted(results))
    for index, steps in results.items():
        for at, logits in steps:
            subject.near(logits, index % 3, at, f"logits of thread {index} at position {at - 1}")
