# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of one shape, bound to the buffers of one cache."""

from __future__ import annotations

import onnxruntime

from genai_iface.backend_kit import GraphRun, Step
from genai_iface.errors import BackendError
from genai_iface_ort.cache import OrtCache
from genai_iface_ort.session import Session
from genai_iface_ort.steps.binding import StepInputs, view_of
from genai_iface_ort.steps.bound_states import BoundStates

__all__ = ["BoundStep"]


class BoundStep(StepInputs):
    """Steps of one shape on some rows of one cache, and on one of the two places of its states.

    Args:
        session: The loaded graph.
        cache: The cache; its buffers must stay where they are.
        run: The first run.
        step: A step of that shape.
        shares: Bind each buffer as past and as present.
        captures: The number under which CUDA graphs keep this shape, "-1" for none; None without graphs.
    """

    def __init__(
        self, session: Session, cache: OrtCache, run: GraphRun, step: Step, *, shares: bool, captures: str | None
    ) -> None:
        rows = len(run.starts)
        total = max(cache.num_positions, *(buffer.num_positions for buffer in cache.buffers[:1]), 0)
        super().__init__(session, rows, run.width, total, step.logits)
        self.states: BoundStates | None = None
        if cache.states is not None:
            self.states = BoundStates(self.binding, session.signature, cache.states, run.rows, session.device)
        self._buffers = cache.buffers
        self._rows = run.rows
        self._addresses = [buffer.address + run.rows.start * buffer.row_nbytes for buffer in cache.buffers]
        for buffer, address in zip(cache.buffers, self._addresses, strict=True):
            spec, shape = buffer.spec, buffer.spec.shape(rows, buffer.num_positions)
            self.binding.bind_input(spec.past, *session.device, spec.onnx_type, shape, address)
            if shares:
                self.binding.bind_output(spec.present, *session.device, spec.onnx_type, shape, address)
            else:
                self.binding.bind_output(spec.present, *session.device)
        self._is_checked = False
        self._copies = False
        if captures is not None:
            self._options = self._options or onnxruntime.RunOptions()
            self._options.add_run_config_entry("gpu_graph_id", captures)

    def take_states(self) -> None:
        """Takes the states that the last run gave.

        Raises:
            BackendError: The runtime wrote elsewhere than it was told.
        """
        if self.states is not None:
            count = len(self.session.signature.state_tensors)
            # They were bound before the cache tensors.
            self.states.take(self.cache_outputs(count + len(self._buffers))[:count])

    def copy_back(self) -> bool:
        """Compares where the runtime put the cache with where it was; fetches it if it is elsewhere.

        Outputs are bound to fixed addresses, so one look after the first run is enough.

        Returns:
            Whether anything had to be copied.
        """
        if self._is_checked and not self._copies:
            return False
        outputs = self.cache_outputs(len(self._buffers))
        self._is_checked = True
        self._copies = False
        for buffer, address, output in zip(self._buffers, self._addresses, outputs, strict=True):
            if output.data_ptr() != address:
                if not self._on_host:
                    raise BackendError(
                        f"ONNX Runtime put {buffer.spec.present!r} elsewhere than it was bound to",
                        remedy='Try options={"optimize": "none"}; please report the model.',
                    )
                self._copies = True
                target = buffer.blocks[self._rows]
                target[...] = view_of(output, buffer.spec.storage).reshape(target.shape)
        return self._copies
