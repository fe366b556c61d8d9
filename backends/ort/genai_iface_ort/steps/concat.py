# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps on past tensors that grow: the style concat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import GraphInputs, GraphRun, RowLengths, Step, empty_logits, plan_concat, store_logits
from genai_iface.types import ModelSpec
from genai_iface_ort.buffers import buffer_specs
from genai_iface_ort.concat_cache import OrtConcatCache
from genai_iface_ort.session import Session
from genai_iface_ort.steps.binding import StepInputs

__all__ = ["ConcatRunner"]


class ConcatRunner:
    """Implements ``Runner[OrtConcatCache]``.

    The past tensors have one length for all rows, so rows of equal length and equal count run together
    and others apart.

    Args:
        session: The loaded graph.
        spec: What the model is; it gives the sizes of the caches.
    """

    def __init__(self, session: Session, spec: ModelSpec) -> None:
        self._session = session
        self._spec = spec
        self._specs = buffer_specs(session.signature)
        self._inputs = GraphInputs(session.signature, context_length=spec.context_length)

    @property
    def grows(self) -> bool:
        """True: the tensors are as long as the rows."""
        return True

    def create_cache(self, rows: RowLengths, /) -> OrtConcatCache:
        """An empty cache."""
        return OrtConcatCache(
            self._specs, rows, bytes_per_token=self._spec.cache.bytes_per_token, device=self._session.device
        )

    def make_room(self, cache: OrtConcatCache, needed: int, /) -> int:
        """Nothing to do: every step makes its own tensors."""
        return needed

    def decode(self, input_ids: object, cache: OrtConcatCache, /) -> None:
        """There is no short way: every step binds other tensors."""

    def run(self, step: Step, cache: OrtConcatCache, /) -> NDArray[np.float32]:
        """Runs a checked step and books it."""
        result = empty_logits(step, self._spec.vocab_size)
        for run in plan_concat(
            step, cache.lengths, only_last_logits=self._session.last_only, one_token=self._session.signature.one_token
        ):
            self._execute(step, run, cache, result)
        # Until here rows may lie in longer tensors than their lengths say, which does no harm.
        cache.rows.advance(step.counts)
        return result

    def _execute(self, step: Step, run: GraphRun[Any], cache: OrtConcatCache, result: NDArray[np.float32]) -> None:
        rows: list[int] = np.arange(cache.batch_size)[run.rows].tolist()
        past = int(run.starts[0])
        inputs = StepInputs(self._session, len(rows), run.width, past + run.width, step.logits)
        for spec, tensor in zip(self._specs, cache.past(rows, past), strict=True):
            inputs.binding.bind_ortvalue_input(spec.past, tensor)
            inputs.binding.bind_output(spec.present, *self._session.device)
        inputs.set(self._inputs.by_role(step, run), step, run)
        store_logits(result, inputs.run(), step, run)
        cache.replace(rows, tuple(inputs.cache_outputs(len(self._specs))), past + run.width)
