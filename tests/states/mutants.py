# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runtimes that keep states and have one bug each: what stacks do today, and what is easily got wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from genai_iface.backend_kit import RowStates, plan_in_place
from genai_iface_numpy.backend import NumpyBackend
from genai_iface_numpy.buffers import state_shapes
from genai_iface_numpy.model import NumpyModel
from tests.conformance.mutants import Mutant
from tests.conformance.plain import PlainAdapter

__all__ = ["STATE_MUTANTS", "StateModel", "model", "states"]

STATE_MUTANTS: list[Mutant] = []


class StateModel(NumpyModel):
    """The reference, with other states in its caches."""

    states_type: type[RowStates] = RowStates

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> Any:
        cache = super().create_cache(batch_size=batch_size, capacity=capacity)
        if cache.states is not None:
            cache.rows._states = self.states_type(state_shapes(self.spec.cache), batch_size)
        return cache


def states(bug: str, check: str) -> Callable[[type[RowStates]], type[RowStates]]:
    """Registers states with a bug."""

    def register(kind: type[RowStates]) -> type[RowStates]:
        _add(kind.__name__, bug, check, type(kind.__name__, (StateModel,), {"states_type": kind}))
        return kind

    return register


def model(bug: str, check: str) -> Callable[[type[StateModel]], type[StateModel]]:
    """Registers a model with a bug."""

    def register(kind: type[StateModel]) -> type[StateModel]:
        _add(kind.__name__, bug, check, kind)
        return kind

    return register


def _add(name: str, bug: str, check: str, kind: type[StateModel]) -> None:
    class Backend(NumpyBackend):
        def load(self, folder: Any, /, *, device: Any = None, options: Any = None) -> NumpyModel:
            loaded = super().load(folder, device=device, options=options)
            loaded.__class__ = kind
            return loaded

    STATE_MUTANTS.append(Mutant(name, bug, check, lambda: PlainAdapter(Backend(), name)))


@states("a reset empties keys and values, and not states", "L2.state.reset")
class KeptOnReset(RowStates):
    def reset(self, rows):
        self._begins[rows] = 0


@states("one row's reset empties the states of all", "L2.state.reset_of_some")
class AllReset(RowStates):
    def reset(self, rows):
        super().reset(np.arange(len(self._begins)))


@states("a rewind to 0 keeps the states", "L2.state.rewind_to_zero")
class KeptAtZero(RowStates):
    def _set(self, row, state):
        if state is not None:
            super()._set(row, state)


@states("a rewind empties the states, whatever the length", "L2.state.rewind_step")
class WipedByRewind(RowStates):
    def rewind(self, old, new):
        super().rewind(old, new)
        for state in self._now:
            state[new < old] = 0


@states("a rewind cuts keys and values, and the states stay", "L2.state.rewind_step")
class KeptByRewind(RowStates):
    def rewind(self, old, new):
        pass


@states("every rewind is said to be possible", "L2.state.rewind_is_true")
class AnyRewind(RowStates):
    def reachable(self, row, length):
        return set(range(length + 1))


@states("a rewind that is refused has emptied the states already", "L2.state.rewind_is_true")
class EmptiedByRefusal(RowStates):
    def reachable(self, row, length):
        found = super().reachable(row, length)

        class Asked(set):
            def __contains__(inner, at):
                if at not in found:
                    for state in self._now:
                        state[row] = 0
                return at in found

        return Asked(found)


@states("only the first row goes back to where the step began", "L2.state.rewind_step_of_some")
class FirstRowGoesBack(RowStates):
    def rewind(self, old, new):
        kept = [state[1:].copy() for state in self._now]
        super().rewind(old, new)
        for state, rest in zip(self._now, kept, strict=True):
            state[1:] = rest


@states("a reorder moves keys and values, and not states", "L2.state.reorder")
class ForgottenReorder(RowStates):
    def reorder(self, indices):
        held = [state.copy() for state in self._now]
        super().reorder(indices)
        for state, old in zip(self._now, held, strict=True):
            rows = min(len(state), len(old))
            state[:rows] = old[:rows]


@states("a fork has the origin's states", "L2.state.fork")
class SharedStatesFork(RowStates):
    def fork(self):
        twin = super().fork()
        twin._now, twin._other = self._now, self._other
        return twin


@states("a loaded cache has keys and values, and states of zeros", "L2.state.save")
class NotRestored(RowStates):
    def restore(self, row, length, state):
        self._begins[row] = length


@states("a row that idles loses its states", "L2.state.idle")
class LostByIdling(RowStates):
    def advance(self, lengths, counts):
        super().advance(lengths, counts)
        for state in self._now:
            state[np.broadcast_to(counts, lengths.shape) == 0] = 0


@states("what an idle row's padding gives is taken", "L2.state.idle")
class PaddingTaken(RowStates):
    def advance(self, lengths, counts):
        super().advance(lengths, np.broadcast_to(counts, lengths.shape) + 1)
        idle = np.broadcast_to(counts, lengths.shape) == 0
        for state in self._now:
            state[idle] = state[~idle][:1] if (~idle).any() else state[idle]


@states("states are kept in float16", "L2.state.chunk_1")
class InHalfPrecision(RowStates):
    def write(self, rows, states):
        super().write(rows, [state.astype(np.float16).astype(state.dtype) for state in states])


@states("a convolution's state is one column late", "L2.state.chunk_2")
class OneColumnLate(RowStates):
    def write(self, rows, states):
        super().write(rows, [np.roll(state, 1, axis=-1) if state.ndim == 3 else state for state in states])


@states("a step begins with the states of the step before the last", "L2.state.chunk_3")
class TwoBehind(RowStates):
    def past(self, rows):
        return self.target(rows) if self._begins.any() else super().past(rows)


@states("states do not count as memory", "L2.state.memory")
class Weightless(RowStates):
    nbytes = 0


@states("a checkpoint is a view of the states", "L2.checkpoint.comes_back")
class ViewKept(RowStates):
    def keep(self, row, length):
        self._kept[row][length] = tuple(now[row] for now in self._now)


@states("a row that came back writes to its checkpoint", "L2.checkpoint.shares_nothing")
class WrittenCheckpoint(RowStates):
    def write(self, rows, states):
        super().write(rows, states)
        for row, kept in enumerate(self._kept):
            for state in kept.values():
                for part, new in zip(state, self._other, strict=True):
                    if self._begins[row] == min(kept):
                        part[...] = new[row]


@states("a rewind keeps the checkpoints beyond it", "L2.checkpoint.rewind_removes")
class StaleCheckpoint(RowStates):
    def rewind(self, old, new):
        kept = [dict(each) for each in self._kept]
        super().rewind(old, new)
        self._kept = kept


@states("a reset keeps checkpoints", "L2.checkpoint.other_rows")
class KeptByReset(RowStates):
    def reset(self, rows):
        kept = [dict(each) for each in self._kept]
        super().reset(rows)
        self._kept = kept


@states("a reorder leaves checkpoints where they were", "L2.checkpoint.other_rows")
class CheckpointsNotMoved(RowStates):
    def reorder(self, indices):
        kept = self._kept
        super().reorder(indices)
        self._kept = (kept * len(indices))[: len(indices)]


@states("drop forgets all checkpoints of the row", "L2.checkpoint.drop")
class AllDropped(RowStates):
    def drop(self, row, length):
        super().drop(row, None)


@states("a checkpoint keeps both buffers", "L2.checkpoint.memory")
class CostsTwice(RowStates):
    def keep(self, row, length):
        self._kept[row][length] = tuple(state[row].copy() for state in (*self._now, *self._other))


@states("checkpoints are listed as they were taken, the last first", "L2.checkpoint.lists")
class WrongOrder(RowStates):
    def kept(self, row):
        return super().kept(row)[::-1]


@model("the counts of a step are not handed to the graph", "L2.state.padding")
class IgnoredCounts(StateModel):
    def _execute(self, graph, step, run, cache):
        values = self._inputs.feeds(step, run)
        name = self._graph.signature.inputs.get("counts") if self._graph else None
        if name is None:
            return super()._execute(graph, step, run, cache)
        original = self._inputs.feeds
        self._inputs.feeds = lambda *given, **more: {**values, name: np.full_like(run.counts, run.width)}
        try:
            return super()._execute(graph, step, run, cache)
        finally:
            self._inputs.feeds = original


@model("a graph without counts gets padding all the same", "L2.state.counts_differ")
class AlwaysPadded(StateModel):
    def _plan(self, step, cache):
        rules = dataclasses.replace(self._inputs.rules, no_padding=False)
        return plan_in_place(step, cache.lengths, rules, make_room=cache.make_room)
