# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The worked example of the specification: two small stories on a tiny model, and what the operators were really given.

The model is random; what it says plays no part. Every run of the graph on the NumPy backend is recorded: the inputs of
the first layer's TensorScatter, ``nonpad_kv_seqlen``, and afterwards the content of its key buffer. Which token
a position holds is found by comparing bits with the keys that were written, not by following the rules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from genai_iface import CacheOverflowError, CacheRewindError, load_model
from genai_iface_numpy.cache import NumpyCache
from genai_iface_numpy.evaluator import Evaluator
from genai_iface_numpy.tensor_scatter import TensorScatter
from tests.models import write_folder

__all__ = ["CAPACITY", "PAD", "STORIES", "WINDOW", "Event", "GraphRun", "tell"]

CAPACITY = 8
WINDOW = 8
PAD = "pad"
_PAD_ID = 0


@dataclass(frozen=True)
class GraphRun:
    """One run of the graph.

    Attributes:
        rows: Rows of the cache that took part.
        width: S of the run.
        write_indices: As TensorScatter got them.
        nonpad_kv_seqlen: As Attention got them.
        positions: Afterwards, per row of the cache and position: the token that is there, "" for none.
    """

    rows: tuple[int, ...]
    width: int
    write_indices: tuple[int, ...]
    nonpad_kv_seqlen: tuple[int, ...]
    positions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Event:
    """One call, and what came of it.

    Attributes:
        name: A short name, also of its picture.
        call: "forward", "rewind_to" or "reset".
        tokens: Per row, the tokens that were appended.
        before: The lengths of the rows before the call.
        after: The lengths of the rows after it.
        runs: The runs of the graph that the call took.
        positions: Afterwards, as in ``GraphRun``.
        error: The class of the error that it raised, or "".
    """

    name: str
    call: str
    tokens: tuple[tuple[str, ...], ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    runs: tuple[GraphRun, ...]
    positions: tuple[tuple[str, ...], ...]
    error: str = ""


@dataclass(frozen=True)
class Plan:
    """One call of a story: ``forward`` with these tokens per row, or another method with its argument."""

    name: str
    tokens: tuple[str, ...] = ()
    call: str = "forward"
    argument: tuple[int, ...] = ()


@dataclass(frozen=True)
class Story:
    """Calls on one cache, and the options of the model (``tests.models``)."""

    rows: int
    capacity: int
    options: Mapping[str, Any]
    plans: tuple[Plan, ...]


STORIES: Mapping[str, Story] = {
    "linear": Story(
        2,
        CAPACITY,
        {"position_ids": True},
        (
            Plan("prefill", ("a0 a1 a2 a3 a4", "b0 b1 b2")),
            Plan("decode", ("a5", "b3")),
            Plan("rewind", call="rewind_to", argument=(5, 3)),
            Plan("two-tokens", ("a5' a6", "b3' b4")),
            Plan("idle", ("", "b5")),
            Plan("split", ("a7", "b6 b7")),
            Plan("overflow", ("", "b8")),
        ),
    ),
    "circular": Story(
        1,
        24,
        {"position_ids": True, "mode": "circular", "capacity": WINDOW},
        (
            Plan("ring-prefill", ("c0 c1 c2 c3 c4 c5",)),
            Plan("ring-wrap", ("c6 c7 c8 c9",)),
            Plan("ring-decode", ("c10",)),
            Plan("ring-rewind", call="rewind_to", argument=(9,)),
            Plan("ring-reset", call="reset"),
        ),
    ),
}
"""By name."""


def tell(name: str) -> list[Event]:
    """Runs a story."""
    story = STORIES[name]
    with tempfile.TemporaryDirectory() as path:
        model = load_model(write_folder(Path(path) / "model", **story.options))
        cache = model.create_cache(batch_size=story.rows, capacity=story.capacity)
        assert isinstance(cache, NumpyCache)
        recorder = _Recorder(cache)
        return [recorder.run(model, plan) for plan in story.plans]


def as_plain(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The events for JSON."""
    return [asdict(event) for event in events]


class _Recorder:
    """Runs calls on one cache and writes down what happened."""

    def __init__(self, cache: NumpyCache) -> None:
        self._cache = cache
        self._names: dict[bytes, str] = {}
        self._ids: dict[str, int] = {}

    def run(self, model: Any, plan: Plan) -> Event:
        tokens = tuple(tuple(row.split()) for row in plan.tokens)
        before = tuple(self._cache.lengths.tolist())
        runs: list[GraphRun] = []
        error = ""
        try:
            if plan.call == "forward":
                with self._recording(tokens, runs):
                    self._forward(model, tokens)
            elif plan.argument:
                getattr(self._cache, plan.call)(plan.argument)
            else:
                getattr(self._cache, plan.call)()
        except (CacheOverflowError, CacheRewindError) as refusal:
            error = type(refusal).__name__
        after = tuple(self._cache.lengths.tolist())
        return Event(plan.name, plan.call, tokens, before, after, tuple(runs), self._positions(), error)

    def _forward(self, model: Any, tokens: Sequence[Sequence[str]]) -> None:
        width = max(map(len, tokens))
        ids = np.full((len(tokens), width), _PAD_ID)
        for row, labels in enumerate(tokens):
            # Each token has an id of its own.
            ids[row, : len(labels)] = [self._ids.setdefault(label, len(self._ids) + 1) for label in labels]
        model.forward(ids, self._cache, counts=list(map(len, tokens)), logits="none")

    @contextmanager
    def _recording(self, tokens: Sequence[Sequence[str]], runs: list[GraphRun]) -> Iterator[None]:
        scatters: list[tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]] = []
        scatter, run_graph = TensorScatter._run, Evaluator.run  # the example looks into the operator
        done = [0] * len(tokens)

        def record_scatter(op: TensorScatter, past: Any, update: Any, write_indices: Any = None, **more: Any) -> Any:
            scatters.append((past, update.copy(), write_indices.copy()))
            return scatter(op, past, update, write_indices, **more)

        def record_run(evaluator: Evaluator, feeds: Mapping[str, Any], outputs: Any, /) -> Any:
            scatters.clear()
            values = run_graph(evaluator, feeds, outputs)
            past, update, write_indices = scatters[0]
            rows = self._rows_of(past)
            for index, row in enumerate(rows):
                for column in range(update.shape[2]):
                    place = done[row] + column
                    label = tokens[row][place] if place < len(tokens[row]) else PAD
                    self._names[update[index, :, column].tobytes()] = label
                done[row] += update.shape[2]
            runs.append(
                GraphRun(
                    rows,
                    int(update.shape[2]),
                    tuple(write_indices.tolist()),
                    tuple(feeds["nonpad_kv_seqlen"].tolist()),
                    self._positions(),
                )
            )
            return values

        with patch.object(TensorScatter, "_run", record_scatter), patch.object(Evaluator, "run", record_run):
            yield

    def _rows_of(self, past: NDArray[Any]) -> tuple[int, ...]:
        """Which rows of the cache a view of its first buffer shows."""
        keys = self._cache.buffers[0]
        offset = past.__array_interface__["data"][0] - keys.__array_interface__["data"][0]
        first = offset // keys.strides[0]
        return tuple(range(first, first + past.shape[0]))

    def _positions(self) -> tuple[tuple[str, ...], ...]:
        keys = self._cache.buffers[0]
        return tuple(
            tuple(self._name(keys[row, :, position]) for position in range(keys.shape[2]))
            for row in range(keys.shape[0])
        )

    def _name(self, key: NDArray[Any]) -> str:
        return self._names[key.tobytes()] if key.any() else ""
