# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps on past tensors that grow: the style concat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import Step
from genai_iface.types import ModelSpec
from genai_iface_ort.buffers import BufferSpec, buffer_specs
from genai_iface_ort.concat_cache import OrtConcatCache
from genai_iface_ort.session import Session
from genai_iface_ort.steps.binding import StepInputs
from genai_iface_ort.steps.runs import Run, store_logits

__all__ = ["ConcatRunner"]


class ConcatRunner:
    """Runs steps on ``OrtConcatCache``.

    The past tensors have one length for all rows, so rows of equal length and equal count run together
    and others apart.

    Args:
        session: The graph.
        spec: The model.
    """

    def __init__(self, session: Session, spec: ModelSpec) -> None:
        self._session = session
        self._spec = spec
        self._specs = buffer_specs(session.signature)

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The tensors; caches of this model hold this very object."""
        return self._specs

    @property
    def grows(self) -> bool:
        """True: the tensors are as long as the rows."""
        return True

    def create_cache(self, batch_size: int, capacity: int) -> OrtConcatCache:
        """An empty cache."""
        return OrtConcatCache(
            self._specs,
            batch_size=batch_size,
            capacity=capacity,
            bytes_per_token=self._spec.cache.bytes_per_token,
            device=self._session.device,
        )

    def make_room(self, cache: OrtConcatCache, needed: int) -> bool:
        """Nothing to do: every step makes its own tensors."""
        return True

    def decode(self, input_ids: object, cache: OrtConcatCache) -> None:
        """There is no short way: every step binds other tensors."""

    def run(self, step: Step, cache: OrtConcatCache) -> NDArray[np.float32]:
        """Runs a checked step and books it.

        Returns:
            The logits as ``Model.forward`` gives them.

        Raises:
            BackendError: ONNX Runtime failed; the lengths are as before.
        """
        lengths = cache.lengths
        batch_size, width = step.input_ids.shape
        columns = {"last": 1, "all": width, "none": 0}[step.logits]
        result = np.zeros((batch_size, columns, self._spec.vocab_size), np.float32)
        together: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(zip(lengths.tolist(), step.counts.tolist(), strict=True)):
            if key[1]:
                together.setdefault(key, []).append(row)
        for (length, count), rows in together.items():
            self._run_rows(step, cache, rows, length, count, result)
        # Until here rows may lie in longer tensors than their lengths say, which does no harm.
        cache.advance(step.counts)
        return result

    def _run_rows(
        self,
        step: Step,
        cache: OrtConcatCache,
        rows: list[int],
        length: int,
        count: int,
        result: NDArray[np.float32],
    ) -> None:
        """Runs ``count`` tokens of rows that all have ``length``."""
        one_by_one = self._session.last_only and step.logits == "all"
        for first in range(count) if one_by_one else (0,):
            last = first + 1 if one_by_one else count
            starts = np.full(len(rows), length + first)
            run = Run(0, len(rows), first, last, starts, np.full(len(rows), last - first))
            self._run_once(step, cache, rows, run, result)

    def _run_once(
        self, step: Step, cache: OrtConcatCache, rows: list[int], run: Run, result: NDArray[np.float32]
    ) -> None:
        past, total = int(run.starts[0]), int(run.starts[0]) + run.width
        inputs = StepInputs(self._session, len(rows), run.width, total, step.logits)
        for spec, tensor in zip(self._specs, cache.past(rows, past), strict=True):
            inputs.binding.bind_ortvalue_input(spec.past, tensor)
            inputs.binding.bind_output(spec.present, *self._session.device)
        inputs.set(
            step.input_ids[rows, run.first : run.last],
            run.starts,
            run.counts,
            run.starts + run.width,
            total,
            mask_width=total,
        )
        values = inputs.run()
        cache.replace(rows, tuple(inputs.cache_outputs(len(self._specs))), total)
        if result.shape[1]:
            store_logits(result, values, np.array(rows), run, step)
