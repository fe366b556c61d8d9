# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps on buffers that are updated in place: the styles scatter and shared."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import (
    GraphInputs,
    GraphRun,
    RowLengths,
    Step,
    empty_logits,
    plan_in_place,
    store_logits,
)
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.types import ModelSpec, UpdateMode
from genai_iface_ort.buffers import HostBuffer, buffer_specs
from genai_iface_ort.cache import OrtCache
from genai_iface_ort.device_buffers import DeviceBuffer
from genai_iface_ort.options import LoadOptions
from genai_iface_ort.runtime import HOST
from genai_iface_ort.session import Session
from genai_iface_ort.steps.bound_step import BoundStep
from genai_iface_ort.steps.decode_step import DecodeStep
from genai_iface_ort.steps.proof import Probe

__all__ = ["CacheCopyWarning", "InPlaceRunner"]

# Shapes of steps that stay bound per cache: decode, a prefill chunk, and rows that go alone.
_MOST_BOUND = 8

# What a run costs by itself, in tokens of a prompt. Measured with 135M parameters on two cores: 4 for int4 weights
# and 14 for float32 ones. On a device a run is launched for next to nothing, and tokens cost little.
_RUN_COST = 16
_DEVICE_RUN_COST = 256

_DECODE = "decode"


class CacheCopyWarning(RuntimeWarning):
    """The runtime copied the cache in a step that was meant to be in place."""


class InPlaceRunner:
    """Implements ``Runner[OrtCache]``.

    Args:
        session: The loaded graph.
        spec: What the model is; it gives the sizes of the caches.
        options: The load options.
    """

    def __init__(self, session: Session, spec: ModelSpec, options: LoadOptions) -> None:
        self._session = session
        self._spec = spec
        self._options = options
        self._specs = buffer_specs(session.signature)
        self._is_shared = session.signature.cache.style == "shared"
        self._on_host = session.device == HOST
        if options.cuda_graph and "attention_mask" in session.signature.inputs:
            raise UnsupportedCapabilityError(
                "CUDA graphs need inputs of one shape, but this model's attention mask grows with the rows",
                remedy="Leave cuda_graph out, or build the folder with lengths instead of a mask.",
            )
        # Measured on a 135M Llama: the standard kernel loses 3 % with 128, GroupQueryAttention nothing with 512.
        self._growth_positions = options.growth_positions or (256 if self._is_shared else 64)
        self._inputs = GraphInputs(session.signature, context_length=spec.context_length)
        self._rules = replace(
            self._inputs.rules,
            run_cost=_RUN_COST if self._on_host else _DEVICE_RUN_COST,
            # Without query_seqlens, several new tokens per row need an empty past or a single row.
            only_empty_rows=self._is_shared and session.query_seqlens is None,
            only_last_logits=session.last_only,
            always_all_rows=options.cuda_graph,
        )
        self._graph_numbers = itertools.count(1)

    @property
    def grows(self) -> bool:
        """Whether the buffers follow the rows' lengths."""
        return self._on_host and any(spec.fixed is None for spec in self._specs)

    def create_cache(self, rows: RowLengths, /) -> OrtCache:
        """An empty cache."""
        num_positions = self._session.signature.cache.fixed_capacity
        if num_positions is None:
            num_positions = self._bucket(1, rows.capacity) if self._on_host else rows.capacity
        return OrtCache(
            self._specs,
            rows,
            num_positions=num_positions,
            spec=self._spec.cache,
            allocate=HostBuffer if self._on_host else partial(DeviceBuffer, device=self._session.device),
        )

    def run(self, step: Step, cache: OrtCache, /) -> NDArray[np.float32]:
        """Runs a checked step and books it."""
        result: NDArray[np.float32] | None = None
        mode: UpdateMode = cache.update_mode
        plan = plan_in_place(step, cache.lengths, self._rules, make_room=partial(self.make_room, cache))
        if cache.states is not None:
            cache.states.begin(cache.rows.lengths)
        for run in plan:
            values, mode = self._execute(run, step, cache)
            if result is None and _is_result(values, step):
                result = values
                continue
            if result is None:
                result = empty_logits(step, self._spec.vocab_size)
            store_logits(result, values, step, run)
        cache.rows.advance(step.counts)
        cache.update_mode = mode
        return empty_logits(step, self._spec.vocab_size) if result is None else result

    def decode(self, input_ids: object, cache: OrtCache, /) -> NDArray[np.float32] | None:
        """Runs one token per row the short way, if a step like it has run before.

        Returns:
            As ``DecodeStep.run``.
        """
        parity = _parity(cache)
        prepared: DecodeStep | None = cache.bound.get((_DECODE, parity))
        if prepared is not None:
            return prepared.run(input_ids, cache)
        bound: BoundStep | None = cache.bound.get((0, cache.batch_size, 1, "last", parity))
        # The general step has to show first that it is in place.
        may = bound is not None and bound.can_decode and cache.is_proven and cache.update_mode == "in_place"
        if bound is not None and may and self._rules.window is None and not self._options.cuda_graph:
            is_smallest = self._bucket(1, cache.capacity) > cache.num_positions // 2
            shortest = 1 if is_smallest else cache.num_positions // 4 + 1
            longest = min(cache.num_positions, cache.capacity)
            cache.bound[(_DECODE, parity)] = DecodeStep(bound, self._spec.vocab_size, range(shortest, longest + 1))
        return None

    # Room.

    def _bucket(self, needed: int, capacity: int) -> int:
        """Positions to have for so many: an eighth more for long rows, a fixed step for short ones."""
        step = self._growth_positions
        while step * 16 <= needed:
            step *= 2
        return max(needed, min(-(-needed // step) * step, capacity + self._growth_positions))

    def make_room(self, cache: OrtCache, needed: int, /) -> int:
        """Fits the buffers to a step; short rows get short buffers back, for the kernels cost by length."""
        now = cache.num_positions
        # Rows that do not run keep what they have.
        needed = max(needed, cache.rows.longest)
        # On a device kernels cost by the valid length, and captured graphs need fixed addresses.
        if not self._on_host or now // 4 < needed <= now:
            return now
        target = self._bucket(needed, cache.capacity)
        # For less than half the move would cost more than it saves.
        if needed > now or target <= now // 2:
            cache.resize(target)
        return cache.num_positions

    # Running.

    def _execute(self, run: GraphRun, step: Step, cache: OrtCache) -> tuple[NDArray[Any], UpdateMode]:
        bound = self._bound(run, step, cache)
        has_counts = self._session.query_seqlens is not None
        values = self._inputs.by_role(
            step,
            run,
            valid=np.maximum(run.starts + run.counts, 1) if has_counts else None,
            # Read on the processor, so a captured graph would keep the first one: the bound serves all.
            total=cache.num_positions if self._options.cuda_graph and run.width == 1 else None,
            mask_width=None if self._is_shared or not cache.buffers else cache.buffers[0].num_positions,
        )
        bound.set(values, step, run)
        probe = None
        if not cache.is_proven and self._options.share_buffers:
            row = int(run.counts.argmax())
            # By way of the processor, the first layer has to do.
            probe = Probe(
                cache.buffers if self._on_host else cache.buffers[:2],
                run.rows.start + row,
                int(run.starts[row]),
                run.width,
            )
        if bound.states is not None:
            bound.states.send(proves=not cache.is_proven)
        logits = bound.run()
        bound.take_states()
        copied = bound.copy_back()
        if probe is not None:
            copied |= not probe.passed()
            cache.is_proven = True
        if copied and cache.update_mode == "in_place":
            warnings.warn(
                CacheCopyWarning(
                    "ONNX Runtime copied the cache in this step instead of writing into its buffers"
                    + ("" if self._options.share_buffers else ", because share_buffers is off")
                ),
                stacklevel=5,
            )
        return logits, "copied" if copied else "in_place"

    def _bound(self, run: GraphRun, step: Step, cache: OrtCache) -> BoundStep:
        if cache.states is not None and not cache.states.runs_first(run.rows):
            # It reads what an earlier run of this step gave, from a copy that serves this run only.
            return BoundStep(self._session, cache, run, step, shares=self._options.share_buffers, captures=None)
        key = (run.rows.start, run.rows.stop, run.width, step.logits, _parity(cache))
        bound = cache.bound.get(key)
        if bound is None:
            if len(cache.bound) >= _MOST_BOUND * (1 if cache.states is None else 2):
                del cache.bound[next(iter(cache.bound))]
            captures = None
            if self._options.cuda_graph:
                # Decode is worth it; a graph of its own for every set of addresses.
                captures = str(next(self._graph_numbers)) if run.width == 1 and step.logits != "none" else "-1"
            bound = BoundStep(self._session, cache, run, step, shares=self._options.share_buffers, captures=captures)
            cache.bound[key] = bound
        return bound


def _parity(cache: OrtCache) -> int:
    """Which of its two places the states are in; steps are bound for one of them."""
    return 0 if cache.states is None else cache.states.parity


def _is_result(values: NDArray[Any], step: Step) -> bool:
    """Whether the logits of a run are all that the step gives, as they are."""
    batch_size, width = step.input_ids.shape
    num_logits = {"last": 1, "all": width, "none": 0}[step.logits]
    return values.dtype == np.float32 and values.shape[:2] == (batch_size, num_logits)
