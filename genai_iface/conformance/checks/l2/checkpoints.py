# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: checkpoints of models that keep states."""

from __future__ import annotations

from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, Subject
from genai_iface.conformance._failure import equal, expect, raises
from genai_iface.conformance.checks.l2._state_models import near_next
from genai_iface.conformance.registry import check
from genai_iface.errors import CacheRewindError, InvalidInputError

__all__: list[str] = []

_CHECKPOINT = (Capability.STATE, Capability.CHECKPOINT)
_BATCH = (*_CHECKPOINT, Capability.BATCH, Capability.RAGGED)
_MODELS = ("states-conv", "states-delta", "states-gated", "states-alone", "states-uncounted")


def _held(context: Context, subject: Subject, rows: int = 1) -> Any:
    """A cache with 5 tokens in each row, kept there, and 3 more."""
    cache: Any = context.cache(subject, rows, 32)
    subject.model.forward(subject.golden.tokens[:rows, :5], cache)
    cache.checkpoint()
    for at in range(5, 8):
        subject.model.forward(subject.golden.tokens[:rows, at : at + 1], cache)
    return cache


@check("L2.checkpoint.comes_back", requires=_CHECKPOINT, spec=["SupportsCheckpoint.checkpoint.1", "State.5"])
def comes_back(context: Context) -> None:
    """A row goes back to a checkpoint, many steps later and more than once."""
    for name in _MODELS:
        subject = context.subject(name)
        cache = _held(context, subject)
        for other in ([[7, 8]], [[3]]):
            subject.model.forward(other, cache)
            expect(cache.can_rewind_to(5), f"can_rewind_to(5) is false on {name!r}, where a checkpoint is")
            cache.rewind_to(5)
            near_next(subject, cache, [5], f"of {name!r} after it came back")


@check("L2.checkpoint.shares_nothing", requires=_CHECKPOINT, spec=["SupportsCheckpoint.checkpoint.2"])
def shares_nothing(context: Context) -> None:
    """What was kept does not change with the row: it came back, took other tokens, and comes back again."""
    for name in _MODELS:
        subject = context.subject(name)
        cache = _held(context, subject)
        cache.rewind_to(5)
        subject.model.forward([[9, 3, 9]], cache)
        subject.model.forward([[2]], cache)
        cache.rewind_to(5)
        near_next(subject, cache, [5], f"of {name!r}, the second time")


@check(
    "L2.checkpoint.other_rows",
    requires=[*_BATCH, Capability.REORDER, Capability.FORK],
    spec=["SupportsCheckpoint.checkpoint.2", "SupportsCheckpoint.checkpoints.2"],
)
def other_rows(context: Context) -> None:
    """Resets of other rows, reorder and fork leave what was kept alone, and carry it along."""
    for name in _MODELS:
        subject = context.subject(name)
        cache = _held(context, subject, 3)
        cache.reset([1])
        equal([cache.checkpoints(row) for row in range(3)], [(5,), (), (5,)], "checkpoints after row 1 was reset")
        fork: Any = context.keep(cache.fork())
        cache.reorder([2, 0, 2])
        equal([cache.checkpoints(row) for row in range(3)], [(5,), (5,), (5,)], "checkpoints after reorder([2, 0, 2])")
        cache.rewind_to([5, 8, 8])
        near_next(subject, cache, [5, 8, 8], f"of {name!r} after a reorder and a rewind", rows=[2, 0, 2])
        equal([fork.checkpoints(row) for row in range(3)], [(5,), (), (5,)], "checkpoints of a fork")
        fork.rewind_to([5, 0, 8])
        near_next(subject, fork, [5, 0, 8], f"of a fork of {name!r} after a rewind")


@check("L2.checkpoint.lists", requires=_CHECKPOINT, spec=["SupportsCheckpoint.checkpoints.1"])
def lists(context: Context) -> None:
    """The list is in rising order, and every length in it can be reached."""
    for name in (*_MODELS, "states-ring"):
        subject = context.subject(name)
        cache = _held(context, subject)
        cache.checkpoint()
        subject.model.forward(subject.golden.tokens[:1, 8:10], cache)
        found = cache.checkpoints(0)
        equal(list(found), sorted(set(found)), "checkpoints(0)")
        for length in found:
            expect(cache.can_rewind_to(length), f"checkpoints(0) of {name!r} has {length}, can_rewind_to says no")
        if name != "states-ring":
            equal(found, (5, 8), f"checkpoints(0) of {name!r}")


@check("L2.checkpoint.rewind_removes", requires=_CHECKPOINT, spec=["SupportsCheckpoint.checkpoints.2"])
def rewind_removes(context: Context) -> None:
    """A rewind removes the checkpoints beyond it: other tokens come there now."""
    subject = context.subject("states-delta")
    cache = _held(context, subject)
    cache.checkpoint()
    cache.rewind_to(5)
    equal(cache.checkpoints(0), (5,), "checkpoints(0) after rewind_to(5)")
    for token in (4, 5, 6, 7, 8):
        subject.model.forward([[token]], cache)
    raises(CacheRewindError, lambda: cache.rewind_to(8), "a rewind to a checkpoint of other tokens")
    cache.rewind_to(5)
    near_next(subject, cache, [5], "after a rewind that was refused")


@check(
    "L2.checkpoint.memory",
    requires=_CHECKPOINT,
    spec=["SupportsCheckpoint.bytes_per_row.1", "SupportsCheckpoint.checkpoint.3", "SupportsCheckpoint.drop.2"],
)
def memory(context: Context) -> None:
    """A checkpoint costs at most what bytes_per_row says, and drop gives it back."""
    for name in _MODELS:
        subject = context.subject(name)
        cache: Any = context.cache(subject, 1, 32)
        equal(cache.bytes_per_row, subject.model.spec.cache.bytes_per_row, f"bytes_per_row of {name!r}")
        subject.model.forward(subject.golden.tokens[:1, :5], cache)
        before = cache.nbytes
        cache.checkpoint()
        grown = cache.nbytes - before
        expect(grown <= cache.bytes_per_row, f"a checkpoint of {name!r} costs more than bytes_per_row", cost=grown)
        cache.drop(0, 5)
        equal(cache.nbytes, before, f"nbytes of {name!r} after drop")


@check("L2.checkpoint.drop", requires=_CHECKPOINT, spec=["SupportsCheckpoint.drop.1"])
def drop(context: Context) -> None:
    """Dropping one leaves the row and its other checkpoints; a length that was not kept is refused."""
    subject = context.subject("states-gated")
    cache = _held(context, subject)
    cache.checkpoint()
    subject.model.forward(subject.golden.tokens[:1, 8:9], cache)
    raises(InvalidInputError, lambda: cache.drop(0, 6), "drop(0, 6)")
    raises(InvalidInputError, lambda: cache.drop(1), "drop(1) of a cache of one row")
    cache.drop(0, 5)
    equal((cache.lengths.tolist(), cache.checkpoints(0)), ([9], (8,)), "(lengths, checkpoints) after drop(0, 5)")
    cache.rewind_to(8)
    near_next(subject, cache, [8], "after another checkpoint was dropped")
    cache.drop(0)
    equal(cache.checkpoints(0), (), "checkpoints(0) after drop(0)")
