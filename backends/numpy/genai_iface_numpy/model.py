# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model: turns one step of the interface into runs of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import (
    NEEDS_ROWS,
    GraphInputs,
    GraphRun,
    RowLengths,
    Step,
    asked_columns,
    cache_capabilities,
    capacity_bound,
    check_batch_and_capacity,
    check_cache,
    check_loaded,
    check_step,
    empty_logits,
    load_cache,
    make_states,
    plan_concat,
    plan_in_place,
    save_cache,
    store_logits,
)
from genai_iface.capabilities import Capability
from genai_iface.display import Displayed, model_facts
from genai_iface.folder import ModelFolder
from genai_iface.types import Device, LogitsMode, ModelSpec, UpdateMode
from genai_iface_numpy.buffers import address, state_shapes
from genai_iface_numpy.cache import NumpyCache
from genai_iface_numpy.graph import LoadedGraph

__all__ = ["NumpyModel"]

_CAPABILITIES = frozenset(
    {
        Capability.BATCH,
        Capability.RAGGED,
        Capability.CHUNKED_PREFILL,
        Capability.LOGITS_ALL,
        Capability.REORDER,
        Capability.GROWTH,
        Capability.THREADS,
        Capability.FORK,
        Capability.INSPECT,
        Capability.SAVE,
    }
)
_INITIAL_POSITIONS = 256


class NumpyModel(Displayed):
    """Implements ``Model[NumpyCache]`` and ``SupportsSave``.

    Args:
        folder: The opened folder.
        device: The device, always the processor.
    """

    def __init__(self, folder: ModelFolder, /, *, device: Device) -> None:
        graph = LoadedGraph(folder)
        self._graph: LoadedGraph | None = graph
        self._specs, self._folder, self._device = graph.specs, folder, device
        self._spec = replace(folder.spec, cache=graph.signature.cache)
        self._inputs = GraphInputs(graph.signature, context_length=self._spec.context_length)
        self._rules = replace(self._inputs.rules, only_last_logits=graph.last_only)
        self._one_row = folder.signature.one_row
        self._is_concat = self._spec.cache.style == "concat"
        self._is_shared = folder.spec.cache.style == "shared"

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return {**model_facts(self), "state": "loaded" if self._graph is not None else "closed"}

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def device(self) -> Device:
        """The processor."""
        return self._device

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do here; what depends on the cache is left out where it is absent."""
        cache = self._spec.cache
        found = _CAPABILITIES | cache_capabilities(cache, "shared" if self._is_shared else cache.style)
        return found - NEEDS_ROWS if self._one_row else found

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> NumpyCache:
        """Makes an empty cache. With a capacity it is reserved at once, without one it grows."""
        check_loaded(self._graph)
        most = check_batch_and_capacity(batch_size, capacity, capacity_bound(self._spec), one_row=self._one_row)
        cache = self._spec.cache
        states = make_states(state_shapes(cache), batch_size) if cache.states else None
        windows = [spec.window for spec in self._specs]
        return NumpyCache(
            self._specs,
            RowLengths(batch_size, most, owner=self, windows=windows, states=states),
            positions=cache.fixed_capacity or capacity or min(most, _INITIAL_POSITIONS),
            spec=cache,
            update_mode="copied" if self._is_concat else "in_place",
        )

    def forward(
        self,
        input_ids: ArrayLike,
        cache: NumpyCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """Appends tokens to the rows of a cache and returns logits."""
        graph = check_loaded(self._graph)
        rows = check_cache(cache, self)
        vocab_size = self._spec.vocab_size
        step = check_step(
            input_ids, counts, logits, lengths=rows.lengths, capacity=rows.capacity, vocab_size=vocab_size
        )
        result = empty_logits(step, vocab_size)
        mode: UpdateMode = cache.update_mode
        plan = self._plan(step, cache)
        if cache.states is not None:
            cache.states.begin(rows.lengths)
        for run in plan:
            values, mode = self._execute(graph, step, run, cache)
            store_logits(result, values, step, run)
        rows.advance(step.counts)
        cache.update_mode = mode
        return result

    def save_cache(self, cache: NumpyCache, path: str | PathLike[str], /) -> None:
        """Writes the valid content of a cache to a safetensors file."""
        check_loaded(self._graph)
        check_cache(cache, self)
        save_cache(cache, path, folder=self._folder)

    def load_cache(self, path: str | PathLike[str], /, *, capacity: int | None = None) -> NumpyCache:
        """Makes a cache from such a file; any backend may have written it."""
        return load_cache(
            path, self.create_cache, folder=self._folder, capacity=capacity, make_room=NumpyCache.make_room
        )

    def close(self) -> None:
        """Frees the weights."""
        self._graph = None

    def _plan(self, step: Step, cache: NumpyCache) -> Iterable[GraphRun[Any]]:
        lengths = cache.lengths
        if not self._is_concat:
            return plan_in_place(step, lengths, self._rules, make_room=cache.make_room)
        cache.make_room(int((lengths + step.counts).max()))
        rules = self._rules
        return plan_concat(step, lengths, only_last_logits=rules.only_last_logits, one_token=rules.one_token)

    def _execute(
        self, graph: LoadedGraph, step: Step, run: GraphRun[Any], cache: NumpyCache
    ) -> tuple[NDArray[Any], UpdateMode]:
        """Runs the graph: the logits of the asked columns, and whether new tokens were written into the buffers."""
        begin, end, every = int(run.starts[0]), int(run.starts[0]) + run.width, slice(None)
        past = [
            buffer[spec.at(run.rows, 0, begin) if self._is_concat else run.rows]
            for spec, buffer in zip(self._specs, cache.buffers, strict=True)
        ]
        asked = asked_columns(step, run)
        is_real = asked < run.counts[:, None]
        states = [] if cache.states is None else cache.states.past(run.rows)
        feeds = self._inputs.feeds(step, run)
        logits, given = graph.run(feeds, [*past, *states], asked=asked, is_real=is_real)
        present = given[: len(past)]
        if cache.states is not None:
            cache.states.write(run.rows, given[len(past) :])
        if self._is_concat:
            for spec, buffer, new in zip(self._specs, cache.buffers, present, strict=True):
                buffer[spec.at(run.rows, begin, end)] = new[spec.at(every, begin, end)]
            return logits, "copied"
        mode: UpdateMode = "in_place"
        for buffer, new in zip(past, present, strict=True):
            if address(buffer) != address(new):
                buffer[...] = new
                mode = "copied"
        return logits, mode
