# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model: checks a step and hands it to the cache style's runner."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import (
    NEEDS_ROWS,
    RowLengths,
    cache_capabilities,
    capacity_bound,
    check_batch_and_capacity,
    check_cache,
    check_loaded,
    check_step,
    load_cache,
    make_states,
    save_cache,
)
from genai_iface.capabilities import Capability
from genai_iface.display import Displayed, model_facts
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.folder import ModelFolder
from genai_iface.types import Device, LogitsMode, ModelSpec
from genai_iface_ort.buffers import state_shapes
from genai_iface_ort.options import LoadOptions
from genai_iface_ort.session import open_session
from genai_iface_ort.steps.concat import ConcatRunner
from genai_iface_ort.steps.in_place import InPlaceRunner
from genai_iface_ort.steps.runner import CacheT, Runner

__all__ = ["OrtModel", "open_model"]


class OrtModel(Displayed, Generic[CacheT]):
    """Implements ``Model`` for the caches of one style.

    Args:
        folder: The opened folder.
        device: Where it runs.
        runner: Runs the steps.
        notes: What was done to the graph at load, or why not; one line each.
    """

    def __init__(
        self, folder: ModelFolder, /, *, device: Device, runner: Runner[CacheT], notes: tuple[str, ...]
    ) -> None:
        self._spec = folder.spec
        self._device = device
        self._folder = folder
        self._notes = notes
        self._grows = runner.grows
        self._runner: Runner[CacheT] | None = runner

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return {**model_facts(self), "state": "loaded" if self._runner is not None else "closed"}

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def device(self) -> Device:
        """Where it runs."""
        return self._device

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the graph at load, or why not; one line each."""
        return self._notes

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do here; what depends on the cache style is left out where it is absent."""
        always = {
            Capability.BATCH,
            Capability.RAGGED,
            Capability.CHUNKED_PREFILL,
            Capability.LOGITS_ALL,
            Capability.REORDER,
            Capability.THREADS,
            Capability.FORK,
            Capability.INSPECT,
            Capability.SAVE,
        }
        cache = self._spec.cache
        growth = {Capability.GROWTH} if self._grows else set()
        found = frozenset(always | cache_capabilities(cache, cache.style) | growth)
        return found - NEEDS_ROWS if self._folder.signature.one_row else found

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> CacheT:
        """Makes an empty cache. On the processor it starts small and grows with its longest row."""
        runner = check_loaded(self._runner)
        most = check_batch_and_capacity(
            batch_size, capacity, capacity_bound(self._spec), one_row=self._folder.signature.one_row
        )
        cache = self._spec.cache
        windows = [layer.capacity for layer in cache.layers if layer.mode == "circular" and layer.capacity is not None]
        states = make_states(state_shapes(cache), batch_size) if cache.states else None
        return runner.create_cache(RowLengths(batch_size, most, owner=self, windows=windows, states=states))

    def forward(
        self,
        input_ids: ArrayLike,
        cache: CacheT,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """Appends tokens to the rows of a cache and returns logits."""
        runner = check_loaded(self._runner)
        rows = check_cache(cache, self)
        if counts is None and logits == "last":
            decoded = runner.decode(input_ids, cache)
            if decoded is not None:
                return decoded
        step = check_step(
            input_ids,
            counts,
            logits,
            lengths=rows.lengths,
            capacity=rows.capacity,
            vocab_size=self._spec.vocab_size,
        )
        return runner.run(step, cache)

    def save_cache(self, cache: CacheT, path: str | PathLike[str], /) -> None:
        """Writes the valid content of a cache to a safetensors file."""
        check_loaded(self._runner)
        check_cache(cache, self)
        save_cache(cache, path, folder=self._folder)

    def load_cache(self, path: str | PathLike[str], /, *, capacity: int | None = None) -> CacheT:
        """Makes a cache from such a file; any backend may have written it."""
        make_room = check_loaded(self._runner).make_room
        return load_cache(path, self.create_cache, folder=self._folder, capacity=capacity, make_room=make_room)

    def close(self) -> None:
        """Frees the session."""
        self._runner = None


def open_model(folder: ModelFolder, /, *, device: Device, options: LoadOptions) -> OrtModel[Any]:
    """Loads the graph of a folder, with the runner for its cache style.

    Raises:
        UnsupportedModelError: The graph cannot run on the device.
        UnsupportedCapabilityError: CUDA graphs cannot be captured of it.
        BackendError: ONNX Runtime refused it.
    """
    if options.cuda_graph and folder.spec.cache.states:
        raise UnsupportedCapabilityError(
            "CUDA graphs need buffers at fixed addresses, but those of this model's states change places in every step",
            capability=Capability.STATE,
            remedy="Leave cuda_graph out.",
        )
    session = open_session(folder, options, device)
    if session.signature.cache.style != "concat":
        return OrtModel(folder, device=device, runner=InPlaceRunner(session, folder.spec, options), notes=session.notes)
    if options.cuda_graph:
        raise UnsupportedCapabilityError(
            "CUDA graphs need buffers at fixed addresses, but this model's cache tensors grow (style concat)",
            capability=Capability.IN_PLACE,
            remedy="Convert the folder to TensorScatter, or leave cuda_graph out.",
        )
    return OrtModel(folder, device=device, runner=ConcatRunner(session, folder.spec), notes=session.notes)
