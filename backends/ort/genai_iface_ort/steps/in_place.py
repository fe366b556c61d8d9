# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps on buffers that are updated in place: the styles scatter and shared."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import RowGroup, Step, group_rows
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.types import ModelSpec, UpdateMode
from genai_iface_ort.buffers import BufferSpec, HostBuffer, buffer_specs
from genai_iface_ort.cache import OrtCache
from genai_iface_ort.device_buffers import DeviceBuffer
from genai_iface_ort.options import LoadOptions
from genai_iface_ort.runtime import HOST
from genai_iface_ort.session import Session
from genai_iface_ort.steps.bound_step import BoundStep
from genai_iface_ort.steps.decode_step import DecodeStep
from genai_iface_ort.steps.proof import Probe
from genai_iface_ort.steps.runs import Run, joined_rows, store_logits

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
    """Runs steps on ``OrtCache``.

    Args:
        session: The graph.
        spec: The model.
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
        windows = {buffer.window for buffer in self._specs}
        self._window = min((window for window in windows if window is not None), default=None)
        # With linear layers beside them, the graph itself must bound the valid length of the rings.
        self._valid_limit = self._window if len(windows) == 1 else None
        self._graph_numbers = itertools.count(1)
        # Only where positions are an input can those of padding be moved out of harm's way.
        self._moves_padding = "position_ids" in session.signature.inputs and not self._is_shared

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The buffers; caches of this model hold this very object."""
        return self._specs

    @property
    def grows(self) -> bool:
        """Whether the buffers follow the rows' lengths."""
        return self._on_host and any(spec.fixed is None for spec in self._specs)

    def create_cache(self, batch_size: int, capacity: int) -> OrtCache:
        """An empty cache."""
        fixed = self._session.signature.cache.fixed_capacity
        return OrtCache(
            self._specs,
            batch_size=batch_size,
            capacity=capacity,
            num_positions=fixed if fixed is not None else self._bucket(1, capacity) if self._on_host else capacity,
            bytes_per_token=self._spec.cache.bytes_per_token,
            allocate=HostBuffer if self._on_host else partial(DeviceBuffer, device=self._session.device),
        )

    def run(self, step: Step, cache: OrtCache) -> NDArray[np.float32]:
        """Runs a checked step and books it.

        Returns:
            The logits as ``Model.forward`` gives them.

        Raises:
            BackendError: ONNX Runtime failed or there is no memory; the lengths are as before.
        """
        lengths = cache.lengths
        batch_size, width = step.input_ids.shape
        columns = {"last": 1, "all": width, "none": 0}[step.logits]
        result: NDArray[np.float32] | None = None
        mode: UpdateMode = cache.update_mode
        for run in self._plan(step, cache, lengths):
            values, mode = self._execute(run, step, cache)
            if values.shape == (batch_size, columns, self._spec.vocab_size) and values.dtype == np.float32:
                result = values
                continue
            if result is None:
                result = np.zeros((batch_size, columns, self._spec.vocab_size), np.float32)
            if columns:
                store_logits(result, values, slice(run.begin, run.stop), run, step)
        cache.advance(step.counts, mode)
        return result if result is not None else np.zeros((batch_size, columns, self._spec.vocab_size), np.float32)

    def decode(self, input_ids: object, cache: OrtCache) -> NDArray[np.float32] | None:
        """Runs one token per row the short way, if a step like it has run before.

        Returns:
            As ``DecodeStep.run``.
        """
        prepared: DecodeStep | None = cache.bound.get(_DECODE)
        if prepared is not None:
            return prepared.run(input_ids, cache)
        bound: BoundStep | None = cache.bound.get((0, cache.batch_size, 1, "last"))
        # The general step has to show first that it is in place.
        may = bound is not None and bound.can_decode and cache.is_proven and cache.update_mode == "in_place"
        if bound is not None and may and self._window is None and not self._options.cuda_graph:
            is_smallest = self._bucket(1, cache.capacity) > cache.num_positions // 2
            shortest = 1 if is_smallest else cache.num_positions // 4 + 1
            cache.bound[_DECODE] = DecodeStep(bound, self._spec.vocab_size, shortest)
        return None

    # Planning.

    def _plan(self, step: Step, cache: OrtCache, lengths: NDArray[np.int64]) -> Iterator[Run]:
        """As few runs as padding allows, and no more padding than a run is worth."""
        groups = self._groups(step)
        allowed = [self._allows_one_run(step, lengths, group) for group in groups]
        ends = [
            int((lengths[group.begin : group.stop]).max()) + group.width
            if is_one
            else int((lengths + step.counts)[group.begin : group.stop].max())
            for group, is_one in zip(groups, allowed, strict=True)
        ]
        # All at once: growing later would lose what the first runs of the step have written.
        if groups and not self.make_room(cache, max(ends)):
            self.make_room(cache, int((lengths + step.counts).max()))
        for group, is_one, end in zip(groups, allowed, ends, strict=True):
            counts = step.counts[group.begin : group.stop]
            if is_one and end <= cache.num_positions:
                counts = np.where(counts <= group.width, counts, 0)
                yield Run(group.begin, group.stop, 0, group.width, lengths[group.begin : group.stop], counts)
                continue
            for begin, stop in joined_rows(np.where(counts <= group.width, counts, 0)):
                rows = slice(group.begin + begin, group.begin + stop)
                count = int(counts[begin])
                for first, last in self._pieces(int(lengths[rows][0]), count, step):
                    yield Run(
                        rows.start, rows.stop, first, last, lengths[rows] + first, np.full(stop - begin, last - first)
                    )

    def _groups(self, step: Step) -> list[RowGroup]:
        """The rows that run together."""
        batch_size, width = step.input_ids.shape
        if not step.is_ragged:
            return [RowGroup(0, batch_size, width)]
        if self._options.cuda_graph and step.counts.any():
            # A captured graph is for all rows.
            return [RowGroup(0, batch_size, int(step.counts.max()))]
        return group_rows(step.counts, run_cost=_RUN_COST if self._on_host else _DEVICE_RUN_COST)

    def _allows_one_run(self, step: Step, lengths: NDArray[np.int64], group: RowGroup) -> bool:
        counts, width = step.counts[group.begin : group.stop], group.width
        lengths = lengths[group.begin : group.stop]
        end = int(lengths.max()) + width
        is_padded = step.is_ragged and bool((counts != width).any())
        limit = self._spec.context_length
        if is_padded and limit is not None and end > limit and not self._moves_padding:
            return False
        takes_any = not self._is_shared or self._session.query_seqlens is not None
        if not takes_any and width > 1 and (len(lengths) > 1 or is_padded) and lengths.any():
            # Without query_seqlens, several new tokens per row need an empty past or a single row.
            return False
        if self._window is not None and (is_padded or (width > 1 and end > self._window)):
            # Padding would overwrite the oldest tokens, and a block that wraps has no causal order.
            return False
        return not (self._session.last_only and (is_padded or (step.logits == "all" and width > 1)))

    def _pieces(self, begin: int, count: int, step: Step) -> Iterator[tuple[int, int]]:
        """A row's columns in one piece, or from where a circular layer wraps on one by one."""
        whole = count if self._window is None else min(count, max(0, self._window - begin))
        if self._session.last_only and step.logits == "all":
            whole = 0
        if whole:
            yield 0, whole
        for column in range(whole, count):
            yield column, column + 1

    # Room.

    def _bucket(self, needed: int, capacity: int) -> int:
        """Positions to have for so many: an eighth more for long rows, a fixed step for short ones."""
        step = self._growth_positions
        while step * 16 <= needed:
            step *= 2
        return max(needed, min(-(-needed // step) * step, capacity + self._growth_positions))

    def make_room(self, cache: OrtCache, needed: int) -> bool:
        """Fits the buffers to a step; short rows get short buffers back, for the kernels cost by length."""
        num_positions = cache.num_positions
        if not self._on_host:
            # Kernels there cost by the valid length, and captured graphs need fixed addresses.
            return needed <= num_positions
        if num_positions // 4 < needed <= num_positions:
            return True
        target = self._bucket(needed, cache.capacity)
        if needed <= num_positions and target > num_positions // 2:
            return True
        return cache.resize(target) or needed <= num_positions

    # Running.

    def _execute(self, run: Run, step: Step, cache: OrtCache) -> tuple[NDArray[Any], UpdateMode]:
        bound = self._bound(run, step, cache)
        starts, width = run.starts, run.width
        if self._session.query_seqlens is not None:
            valid = np.maximum(starts + run.counts, 1)
        elif self._is_shared and not starts.any():
            # A prompt: GroupQueryAttention takes its padding as such, if the total is the width.
            valid = np.maximum(run.counts, 1)
        else:
            valid = starts + width
        total = max(width, int(valid.max())) if self._session.query_seqlens is None else int(valid.max())
        if self._options.cuda_graph and width == 1:
            # Read on the processor, so a captured graph would keep the first one: the bound serves all.
            total = cache.num_positions
        if self._valid_limit is not None:
            valid = np.minimum(valid, self._valid_limit)
        bound.set(
            step.input_ids[run.begin : run.stop, run.first : run.last],
            starts,
            run.counts,
            valid,
            total,
            mask_width=total if self._is_shared else cache.buffers[0].num_positions,
            position_limit=self._spec.context_length if self._moves_padding else None,
        )
        probe = None
        if not cache.is_proven and self._options.share_buffers:
            row = int(run.counts.argmax())
            # By way of the processor, the first layer has to do.
            probe = Probe(
                cache.buffers if self._on_host else cache.buffers[:2], run.begin + row, int(starts[row]), width
            )
        logits = bound.run()
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

    def _bound(self, run: Run, step: Step, cache: OrtCache) -> BoundStep:
        key = (run.begin, run.stop, run.width, step.logits)
        bound = cache.bound.get(key)
        if bound is None:
            if len(cache.bound) >= _MOST_BOUND:
                del cache.bound[next(iter(cache.bound))]
            captures = None
            if self._options.cuda_graph:
                # Decode is worth it; a graph of its own for every set of addresses.
                captures = str(next(self._graph_numbers)) if run.width == 1 and step.logits != "none" else "-1"
            bound = BoundStep(self._session, cache, run, step, shares=self._options.share_buffers, captures=captures)
            cache.bound[key] = bound
        return bound
