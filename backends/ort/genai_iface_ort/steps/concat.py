# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps on past tensors that grow: the style concat."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface.backend_kit import GraphInputs, GraphRun, RowLengths, Step, empty_logits, plan_concat, store_logits
from genai_iface.types import ModelSpec
from genai_iface_ort.buffers import buffer_specs, state_shapes
from genai_iface_ort.concat_cache import OrtConcatCache
from genai_iface_ort.runtime import HOST, ORT_TYPES
from genai_iface_ort.session import Session
from genai_iface_ort.steps.binding import StepInputs, view_of

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
        return OrtConcatCache(self._specs, rows, spec=self._spec.cache, device=self._session.device)

    def make_room(self, cache: OrtConcatCache, needed: int, /) -> int:
        """Nothing to do: every step makes its own tensors."""
        return needed

    def decode(self, input_ids: object, cache: OrtConcatCache, /) -> None:
        """There is no short way: every step binds other tensors."""

    def run(self, step: Step, cache: OrtConcatCache, /) -> NDArray[np.float32]:
        """Runs a checked step and books it."""
        result = empty_logits(step, self._spec.vocab_size)
        if cache.states is not None:
            cache.states.begin(cache.rows.lengths)
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
        self._bind_states(inputs, run, cache)
        for spec, tensor in zip(self._specs, cache.past(rows, past), strict=True):
            inputs.binding.bind_ortvalue_input(spec.past, tensor)
            inputs.binding.bind_output(spec.present, *self._session.device)
        inputs.set(self._inputs.by_role(step, run), step, run)
        store_logits(result, inputs.run(), step, run)
        count = len(self._session.signature.state_tensors)
        outputs = inputs.cache_outputs(count + len(self._specs))
        if cache.states is not None:
            shapes = state_shapes(self._session.signature.cache)
            new = [view_of(output, np.dtype(dtype)) for output, (_, dtype) in zip(outputs, shapes, strict=False)]
            cache.states.write(run.rows, new)
        cache.replace(rows, tuple(outputs[count:]), past + run.width)

    def _bind_states(self, inputs: StepInputs, run: GraphRun[Any], cache: OrtConcatCache) -> None:
        """The states of the rows, as copies, so that any rows can run together."""
        signature = self._session.signature
        if cache.states is None:
            return
        for tensor, past in zip(signature.state_tensors, cache.states.past(run.rows), strict=True):
            dtype = ORT_TYPES[signature.cache.states[tensor.state].dtype]
            value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(past), dtype)
            inputs.binding.bind_ortvalue_input(tensor.past, value)
            inputs.binding.bind_output(tensor.present, *HOST)
