# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""More runtimes that keep states and have one bug each: what the checks of levels 0, 3 and 4 are there for."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from genai_iface import CacheRewindError, Capability, InvalidInputError, UnsupportedCapabilityError
from genai_iface.backend_kit import RowStates
from genai_iface_numpy.cache import NumpyCache
from tests.states.mutants import STATE_MUTANTS, StateModel, model, states

__all__ = ["STATE_MUTANTS"]


class OtherCacheModel(StateModel):
    """The reference, with another class of caches."""

    cache_type: type[NumpyCache] = NumpyCache

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> Any:
        cache = super().create_cache(batch_size=batch_size, capacity=capacity)
        if cache.states is not None:
            cache.__class__ = self.cache_type
        return cache


# What a model says of itself.


@model("a model with states declares rewinds to any length", "L0.state.declared")
class AnyRewindDeclared(StateModel):
    @property
    def capabilities(self):
        return super().capabilities | {Capability.REWIND}


@model("a model does not say that it keeps states", "L0.state.declared")
class StateUndeclared(StateModel):
    @property
    def capabilities(self):
        return super().capabilities - {Capability.STATE}


@model("matrices are said to be of another element type than they are", "L0.state.spec")
class WrongElementType(StateModel):
    @property
    def spec(self):
        cache = self._spec.cache
        named = tuple(
            dataclasses.replace(state, dtype="float16" if state.kind == "recurrent" else state.dtype)
            for state in cache.states
        )
        return dataclasses.replace(self._spec, cache=dataclasses.replace(cache, states=named))


@model("a recurrence and its convolution are said to be two layers", "L0.state.spec")
class OneLayerEach(StateModel):
    @property
    def spec(self):
        cache = self._spec.cache
        named = tuple(dataclasses.replace(state, layer=at) for at, state in enumerate(cache.states))
        return dataclasses.replace(self._spec, cache=dataclasses.replace(cache, states=named))


@model("checkpoints are declared, and dropping them is not there", "L0.state.protocol")
class NothingDropped(OtherCacheModel):
    class cache_type(NumpyCache):
        drop = None


@model("a declared rewind of the last step is refused", "L0.state.works")
class StepRefused(OtherCacheModel):
    class cache_type(NumpyCache):
        def rewind_to(self, lengths, /):
            if np.all(np.asarray(lengths) > 0) and np.any(np.asarray(lengths) < self.lengths):
                raise UnsupportedCapabilityError("no", capability=Capability.REWIND_STEP, remedy="no")
            super().rewind_to(lengths)


class _OtherRefusal(NumpyCache):
    def refused(self, error: CacheRewindError) -> CacheRewindError:
        return error

    def rewind_to(self, lengths, /):
        try:
            super().rewind_to(lengths)
        except CacheRewindError as error:
            raise self.refused(error) from None


@model("a refused rewind does not say where the row can go", "L0.state.refusal")
class MuteRefusal(OtherCacheModel):
    class cache_type(_OtherRefusal):
        def refused(self, error):
            return CacheRewindError(error.row, error.requested, error.length, "its states are gone")


@model("a refused rewind names the row's length as the one that was asked for", "L0.state.refusal")
class SwappedRefusal(OtherCacheModel):
    class cache_type(_OtherRefusal):
        def refused(self, error):
            error.requested, error.length = error.length, error.requested
            return error


# Logits after every token.


@model("all but the last logits of a wide step lag by one token", "L3.state.conv")
class LogitsLag(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and got.shape[1] > 2:
            got[:, 1:-1] = got[:, :-2].copy()
        return got


def _changed(states: RowStates, row: int) -> None:
    for state in states._now:
        state[row] *= 0.5


@model("a prompt without any attention is cut after eight tokens", "L3.state.alone")
class CutWithoutAttention(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if not self.spec.cache.layers and cache.states is not None:
            got[:, 8:-1] = 0
        return got


@model("states beside a ring are lost where it wraps", "L3.state.ring")
class LostAtTheWrap(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if self.spec.cache.is_circular and cache.states is not None:
            for row in np.flatnonzero(cache.lengths == 20):
                _changed(cache.states, row)
        return got


@model("float16 models lose the states of their convolutions", "L3.state.float16")
class LostInFloat16(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        for state in [] if cache.states is None else cache.states._now:
            if state.dtype == np.float16:
                state[...] = 0
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("bfloat16 models decay to nothing after a prompt", "L3.state.bfloat16")
class LostInBfloat16(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if cache.states is not None and any(state.dtype == "bfloat16" for state in self.spec.cache.states):
            for state in cache.states._now:
                state[...] = 0
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("a step of two tokens after one of one begins where that began", "L3.state.chunk_borders")
class WidthsMixed(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        width, before = np.shape(input_ids)[1], getattr(cache, "width", 0)
        if cache.states is not None:
            if (before, width) == (1, 2):
                for now, other in zip(cache.states._now, cache.states._other, strict=True):
                    now[...] = other
            cache.width = width
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("beside a ring, rows with different counts change their states", "L3.state.counts_differ")
class RingRowsMixed(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        active = np.flatnonzero(counts) if counts is not None else []
        if self.spec.cache.is_circular and cache.states is not None and len(active) > 1:
            for state in cache.states._now:
                state[active] = state[active[::-1]]
        return got


@model("the last row of three takes the place of the first after three steps", "L3.state.batch_row")
class LastRowDrifts(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if cache.states is not None and cache.batch_size == 3 and counts is None:
            cache.steps = getattr(cache, "steps", 0) + 1
            if cache.steps == 4:
                for state in cache.states._now:
                    state[2] = state[0]
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@model("padding that is a legal token gets into the states", "L3.state.padding_width")
class LegalPadding(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and counts is not None:
            ids = np.asarray(input_ids)
            for row, count in enumerate(np.asarray(counts).tolist()):
                if (ids[row, count:] > 0).any():
                    _changed(cache.states, row)
        return got


@states("a row goes back to where its step began twice, and no more", "L3.state.replay")
class TwiceOnly(RowStates):
    times = 0

    def rewind(self, old, new):
        stays = (new == self._begins) & (new > 0) & (new < old)
        held = [state.copy() for state in self._now]
        super().rewind(old, new)
        self.times += int(stays.any())
        if self.times > 2:
            for state, before in zip(self._now, held, strict=True):
                state[stays] = before[stays]


@states("going back to a checkpoint overwrites those before it", "L3.state.checkpoint_replay")
class EarlierOverwritten(RowStates):
    def rewind(self, old, new):
        super().rewind(old, new)
        for row, length in enumerate(new.tolist()):
            kept = self._kept[row]
            if length in kept and length < old[row]:
                self._kept[row] = dict.fromkeys(kept, kept[length])


@model("one place for the states of the step that runs, for all threads", "L3.state.threads")
class SharedPlace(StateModel):
    def _execute(self, graph, step, run, cache):
        self.place = cache.rows._states
        time.sleep(1e-4)
        cache.rows._states = self.place
        return super()._execute(graph, step, run, cache)


# What only a loop shows.


@model("states are lost in the step after the sixth of one token", "L4.state.greedy")
class SixthStep(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if cache.states is not None and logits == "last":
            cache.singles = getattr(cache, "singles", 0) + 1 if np.shape(input_ids)[1] == 1 else 0
            if cache.singles == 6 and cache.lengths[0] < 12:
                for state in cache.states._now:
                    state[...] = 0
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@states("a reorder to many more rows leaves most of them empty", "L4.state.beams")
class FewCopies(RowStates):
    def reorder(self, indices):
        before = len(self._begins)
        super().reorder(indices)
        for state in self._now:
            state[3 * before :] = 0


@states("after a drop the states that were dropped are kept again", "L4.state.draft_model")
class DroppedIsKept(RowStates):
    dropped: Any = None

    def drop(self, row, length):
        if length is None and self._kept[row]:
            self.dropped = next(iter(self._kept[row].values()))
        super().drop(row, length)

    def keep(self, row, length):
        super().keep(row, length)
        if self.dropped is not None:
            self._kept[row][length] = self.dropped


@states("states that were loaded are lost in the first reorder", "L4.state.prefix")
class LoadedIsLost(RowStates):
    loaded = False

    def restore(self, row, length, state):
        super().restore(row, length, state)
        self.loaded = True

    def reorder(self, indices):
        super().reorder(indices)
        if self.loaded:
            for state in self._now:
                state[...] = 0
        self.loaded = False


@states("a row that was reset and then idles gets its states back", "L4.state.slots")
class BackByIdling(RowStates):
    old: Any = None

    def reset(self, rows):
        self.old = {row: [state[row].copy() for state in self._now] for row in rows.tolist()}
        super().reset(rows)

    def advance(self, lengths, counts):
        super().advance(lengths, counts)
        for row in np.flatnonzero(np.broadcast_to(counts, lengths.shape) == 0).tolist():
            for state, before in zip(self._now, (self.old or {}).get(row, ()), strict=False):
                state[row] = before


@states("a checkpoint beyond eight tokens has the wrong sign", "L4.state.draft_model")
class NegatedCheckpoint(RowStates):
    def keep(self, row, length):
        super().keep(row, length)
        if length > 8:
            self._kept[row][length] = tuple(-part for part in self._kept[row][length])


@states("a draft that was refused stays in the states of a step with four tokens", "L4.state.speculation")
class RefusedStays(RowStates):
    def rewind(self, old, new):
        stays = (old - new == 4) & (new == self._begins)
        held = [state.copy() for state in self._now]
        super().rewind(old, new)
        if len(self._begins) == 1 and old[0] > 8:
            for state, before in zip(self._now, held, strict=True):
                state[stays] = before[stays]


@states("taking a checkpoint beyond eight tokens changes the row", "L4.state.draft_model")
class DisturbedByCheckpoint(RowStates):
    def keep(self, row, length):
        super().keep(row, length)
        if length > 8:
            for now in self._now:
                now[row] *= -1


# One for each of the other checks.


def _has_conv(model: Any) -> bool:
    return any(state.kind == "conv" for state in model.spec.cache.states)


def _has_recurrence(model: Any) -> bool:
    return any(state.kind == "recurrent" for state in model.spec.cache.states)


@model("a step of four tokens leaves the states as they were", "L2.state.chunk_4")
class FourLeavesStates(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        held = [state.copy() for state in cache.states._now] if cache.states is not None else []
        before = int(cache.lengths[0])
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if held and np.shape(input_ids) == (1, 4) and counts is None and before:
            for state, old in zip(cache.states._now, held, strict=True):
                state[...] = old
        return got


@model("a step of seven tokens keeps half of its states", "L2.state.chunk_7")
class SevenHalved(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and np.shape(input_ids) == (1, 7):
            for state in cache.states._now:
                state[...] *= 0.5
        return got


@model("saved states of any model are taken", "L2.state.other_model")
class AnyStatesLoaded(StateModel):
    def load_cache(self, path, /, *, capacity=None):
        try:
            return super().load_cache(path, capacity=capacity)
        except InvalidInputError:
            return self.create_cache(capacity=capacity)


@model("a delta rule loses its first head after a long prompt", "L3.state.delta")
class FirstHeadLost(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and np.shape(input_ids)[1] > 8 and self.spec.cache.layers and _has_conv(self):
            for state in cache.states._now:
                if state.ndim == 4:
                    state[:, 0] = 0
        return got


@model("a matrix without a convolution decays once more after a chunk", "L3.state.gated")
class DecaysTwice(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and np.shape(input_ids)[1] == 4 and _has_recurrence(self):
            for state in cache.states._now:
                if state.ndim == 4:
                    state[...] *= 0.9
        return got


@model("without an input for counts the states lag by a step", "L3.state.uncounted")
class UncountedLags(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and "counts" not in self._graph.signature.inputs:
            for state in cache.states._now:
                state[...] *= 0.5
        return got


@model("in the fourth step of one token, shorter rows take the states of the longest", "L4.state.ragged_batch")
class LongestWins(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        if cache.states is not None and cache.batch_size == 3:
            cache.singles = getattr(cache, "singles", 0) + 1 if np.shape(input_ids)[1] == 1 else 0
            if cache.singles == 4:
                for state in cache.states._now:
                    state[cache.lengths < cache.lengths.max()] = -state[int(np.argmax(cache.lengths))]
        return super().forward(input_ids, cache, counts=counts, logits=logits)


@states("the first step after a row was emptied leaves the wrong sign", "L4.state.rewind")
class WrongSignAfterReset(RowStates):
    is_emptied = False

    def reset(self, rows):
        super().reset(rows)
        self.is_emptied = True

    def advance(self, lengths, counts):
        super().advance(lengths, counts)
        if self.is_emptied:
            for state in self._now:
                state[...] *= -1
        self.is_emptied = False


@model("a step of several tokens behind others leaves the wrong sign", "L4.state.conversation")
class WrongSignAfterTurn(StateModel):
    def forward(self, input_ids, cache, /, *, counts=None, logits="last"):
        is_behind = cache.lengths[0] > 0 and np.shape(input_ids)[1] > 3
        got = super().forward(input_ids, cache, counts=counts, logits=logits)
        if cache.states is not None and is_behind:
            for state in cache.states._now:
                state[...] *= -1
        return got


@states("no checkpoint is ever kept", "L4.state.regenerate")
class NothingKept(RowStates):
    def keep(self, row, length):
        super().keep(row, length)
        self._kept[row].clear()
