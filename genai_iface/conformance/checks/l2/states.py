# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: models that keep states: what steps, rows and rewinds do to them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import equal, expect, raises
from genai_iface.conformance.checks.l2._state_models import LINEAR, MODELS, near_next, ragged_step, state_subject
from genai_iface.conformance.registry import check
from genai_iface.errors import CacheRewindError, InvalidInputError

__all__: list[str] = []

_STATE = (Capability.STATE,)
_RAGGED = (Capability.STATE, Capability.BATCH, Capability.RAGGED)
_CHUNKS = (Capability.STATE, Capability.CHUNKED_PREFILL)
_STEP = (Capability.STATE, Capability.REWIND_STEP)


@check("L2.state.padding", requires=_RAGGED, spec=["State.1", "Model.forward.4"])
def padding(context: Context) -> None:
    """Padding does not get into a state: rows of a ragged step go on as if they had run alone."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 3, 16)
        ragged_step(subject, cache, [0, 0, 0], [7, 2, 4])
        near_next(subject, cache, [7, 2, 4], f"of {name!r} after a ragged step")


@check("L2.state.idle", requires=_RAGGED, spec=["State.1", "Model.forward.3"])
def idle(context: Context) -> None:
    """A row that idles keeps its states, however long the others run."""
    for name in MODELS:
        subject = state_subject(context, name)
        cache = context.cache(subject, 2, 24)
        subject.model.forward(subject.golden.tokens[:2, :5], cache)
        for begin, end in ((5, 9), (9, 10), (10, 16)):
            ragged_step(subject, cache, [begin, 5], [end - begin, 0])
        near_next(subject, cache, [16, 5], f"of {name!r} after it idled")


@check("L2.state.counts_differ", requires=_RAGGED, spec=["State.1", "Model.forward.6"])
def counts_differ(context: Context) -> None:
    """Steps in which every row has another count, one after the other."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 3, 24)
        lengths = [0, 0, 0]
        for counts in ([3, 1, 5], [0, 4, 1], [1, 1, 0], [2, 5, 3]):
            ragged_step(subject, cache, lengths, counts)
            lengths = [length + count for length, count in zip(lengths, counts, strict=True)]
        near_next(subject, cache, lengths, f"of {name!r} after steps with different counts")


def _chunk_check(size: int) -> None:
    @check(
        f"L2.state.chunk_{size}",
        requires=_CHUNKS,
        spec=["State.2", "Model.forward.6"],
        title=f"A prompt in chunks of {size} gives what one step gives, around the border of a convolution too.",
    )
    def chunked(context: Context) -> None:
        for name in MODELS:
            subject = state_subject(context, name)
            cache = context.cache(subject, 1, 24)
            for begin in range(0, 12, size):
                subject.model.forward(subject.golden.tokens[:1, begin : min(begin + size, 12)], cache)
            near_next(subject, cache, [12], f"of {name!r} in chunks of {size}")


for _size in (1, 2, 3, 4, 7):
    _chunk_check(_size)


@check("L2.state.reset", requires=_STATE, spec=["State.3", "KVCache.reset.1"])
def reset_zeroes(context: Context) -> None:
    """A row that was reset begins with empty states."""
    for name in MODELS:
        subject = state_subject(context, name)
        cache = context.cache(subject, 1, 24)
        subject.model.forward(subject.golden.tokens[1:2, :6], cache)
        cache.reset()
        subject.model.forward(subject.golden.tokens[:1, :4], cache)
        near_next(subject, cache, [4], f"of {name!r} after a reset")


@check("L2.state.rewind_to_zero", requires=_STATE, spec=["State.3", "KVCache.rewind_to.1"])
def to_zero(context: Context) -> None:
    """A row that was rewound to 0 begins with empty states."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 1, 24)
        subject.model.forward(subject.golden.tokens[1:2, :3], cache)
        subject.model.forward(subject.golden.tokens[1:2, 3:6], cache)
        expect(cache.can_rewind_to(0), f"can_rewind_to(0) is false on {name!r}")
        cache.rewind_to(0)
        subject.model.forward(subject.golden.tokens[:1, :4], cache)
        near_next(subject, cache, [4], f"of {name!r} after rewind_to(0)")


@check("L2.state.reset_of_some", requires=_RAGGED, spec=["State.3", "KVCache.reset.1"])
def reset_of_some(context: Context) -> None:
    """A slot that is reset begins anew, and its neighbours go on."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 3, 24)
        subject.model.forward(subject.golden.tokens[:3, :6], cache)
        cache.reset([1])
        near_next(subject, cache, [6, 0, 6], f"of {name!r} after row 1 was reset")


@check("L2.state.reorder", requires=[*_RAGGED, Capability.REORDER], spec=["State.4", "KVCache.reorder.2"])
def reorder(context: Context) -> None:
    """States go where their rows go, and as many times."""
    for name in LINEAR:
        subject = state_subject(context, name)
        for order in ([2, 0, 1], [1, 1], [0, 2, 2, 1]):
            cache = context.cache(subject, 3, 24)
            ragged_step(subject, cache, [0, 0, 0], [6, 3, 5])
            cache.reorder(order)
            lengths = [[6, 3, 5][row] for row in order]
            near_next(subject, cache, lengths, f"of {name!r} after reorder({order})", rows=order)
            near_next(subject, cache, [n + 1 for n in lengths], f"of {name!r}, one token later", rows=order)


@check("L2.state.fork", requires=[*_STATE, Capability.FORK], spec=["State.4", "SupportsFork.fork.1"])
def fork(context: Context) -> None:
    """A fork has states of its own."""
    for name in MODELS:
        subject = state_subject(context, name)
        cache: Any = context.cache(subject, 1, 24)
        subject.model.forward(subject.golden.tokens[:1, :6], cache)
        twin = context.keep(cache.fork())
        subject.model.forward([[7, 8, 9]], cache)
        subject.model.forward([[3]], cache)
        near_next(subject, twin, [6], f"of a fork of {name!r}")
        near_next(subject, twin, [7], f"of a fork of {name!r}, one token later")


@check("L2.state.save", requires=[*_STATE, Capability.SAVE], spec=["State.4", "SupportsSave.load_cache.1"])
def save(context: Context) -> None:
    """A cache that was saved goes on with its states, rows of different lengths among them."""
    for name in MODELS:
        subject = state_subject(context, name)
        model: Any = subject.model
        cache = context.cache(subject, 1, 24)
        model.forward(subject.golden.tokens[:1, :6], cache)
        with tempfile.TemporaryDirectory() as folder:
            model.save_cache(cache, Path(folder) / "cache.safetensors")
            loaded = context.keep(model.load_cache(Path(folder) / "cache.safetensors", capacity=24))
        near_next(subject, loaded, [6], f"of a loaded cache of {name!r}")


@check("L2.state.other_model", requires=[*_STATE, Capability.SAVE], spec=["State.4", "SupportsSave.load_cache.2"])
def other_model(context: Context) -> None:
    """A file with the states of another model is refused, and so is one whose states were cut off."""
    subject, stranger = state_subject(context, "delta"), state_subject(context, "uncounted")
    model: Any = subject.model
    other: Any = stranger.model
    cache = context.cache(subject, 1, 24)
    model.forward(subject.golden.tokens[:1, :6], cache)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cache.safetensors"
        model.save_cache(cache, file)
        raises(InvalidInputError, lambda: other.load_cache(file), "a file with states of another model")
        file.write_bytes(file.read_bytes()[:-1])
        raises(InvalidInputError, lambda: model.load_cache(file), "a file whose last state was cut off")
    near_next(subject, cache, [6], "of the cache that was saved")


@check("L2.state.rewind_step", requires=_STEP, spec=["State.5", "KVCache.rewind_to.1"])
def rewind_step(context: Context) -> None:
    """A row goes back to where the last step began, and what was accepted runs again."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 1, 24)
        subject.model.forward(subject.golden.tokens[:1, :6], cache)
        subject.model.forward(np.concatenate((subject.golden.tokens[:1, 6:8], [[5, 6]]), axis=1), cache)
        expect(cache.can_rewind_to(6), f"can_rewind_to(6) is false on {name!r}, where the last step began")
        cache.rewind_to(6)
        equal(cache.lengths, [6], "lengths after the rewind")
        subject.model.forward(subject.golden.tokens[:1, 6:8], cache)
        near_next(subject, cache, [8], f"of {name!r} after two of four drafts were taken")


@check("L2.state.rewind_step_of_some", requires=[*_RAGGED, Capability.REWIND_STEP], spec=["State.5"])
def rewind_step_of_some(context: Context) -> None:
    """Some rows go back to where the step began, and the others stay."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 3, 24)
        subject.model.forward(subject.golden.tokens[:3, :4], cache)
        subject.model.forward(subject.golden.tokens[:3, 4:7], cache)
        cache.rewind_to([4, 7, 4])
        near_next(subject, cache, [4, 7, 4], f"of {name!r} after two of three rows went back")


@check("L2.state.rewind_is_true", requires=_STATE, spec=["State.5", "State.6", "KVCache.can_rewind_to.1"])
def rewind_is_true(context: Context) -> None:
    """For every length: what is said to work is right, what is refused changes nothing."""
    for name in LINEAR:
        subject = state_subject(context, name)
        for length in range(9):
            cache = context.cache(subject, 1, 24)
            for begin, end in ((0, 4), (4, 7), (7, 8)):
                subject.model.forward(subject.golden.tokens[:1, begin:end], cache)
            can, now = cache.can_rewind_to(length), 8
            expect(can or length not in (0, 8), f"can_rewind_to({length}) is false on {name!r}")
            if can:
                cache.rewind_to(length)
                now = length
            else:
                raises(CacheRewindError, lambda at=length, held=cache: held.rewind_to(at), f"rewind_to({length})")  # type: ignore[misc]
            equal(cache.lengths, [now], f"lengths after rewind_to({length})")
            near_next(subject, cache, [now], f"of {name!r} after rewind_to({length})")


@check("L2.state.memory", requires=_STATE, spec=["State.7"])
def memory(context: Context) -> None:
    """The states of every row are counted in nbytes, and in the spec."""
    for name in MODELS:
        subject = state_subject(context, name)
        spec = subject.model.spec.cache
        expect(spec.states, f"the spec of {name!r} names no states")
        cache = context.cache(subject, 2 if Capability.BATCH in subject.model.capabilities else 1, 24)
        least = cache.batch_size * spec.bytes_per_row
        expect(cache.nbytes >= least, f"nbytes of {name!r} is less than its states", nbytes=cache.nbytes, states=least)
