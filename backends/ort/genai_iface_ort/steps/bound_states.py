# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The states of some rows, bound to a step: read from one buffer, written to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface.backend_kit import RowStates
from genai_iface.errors import BackendError
from genai_iface.graph import GraphSignature
from genai_iface_ort.runtime import ORT_TYPES, DeviceIndex
from genai_iface_ort.steps.bound_array import BoundArray

__all__ = ["BoundStates"]


class BoundStates:
    """Binds the states of neighbouring rows. On a device they are sent before a run and fetched after it.

    Args:
        binding: What the run is bound to.
        signature: Names and types of the states.
        states: The states of the cache.
        rows: The rows of the run.
        device: Where the graph runs.
    """

    def __init__(
        self,
        binding: onnxruntime.IOBinding,
        signature: GraphSignature,
        states: RowStates,
        rows: slice,
        device: DeviceIndex,
    ) -> None:
        self.states = states
        self._rows = rows
        self._names = [tensor.present for tensor in signature.state_tensors]
        # Of rows that have run in this step already these are copies, which serve one run.
        self._past = [BoundArray(np.ascontiguousarray(past), device) for past in states.past(rows)]
        self._target = [BoundArray(target, device) for target in states.target(rows)]
        self._before: list[NDArray[Any]] | None = None
        for tensor, past, target in zip(signature.state_tensors, self._past, self._target, strict=True):
            dtype = ORT_TYPES[signature.cache.states[tensor.state].dtype]
            binding.bind_input(tensor.past, *device, dtype, past.array.shape, past.address)
            binding.bind_output(tensor.present, *device, dtype, target.array.shape, target.address)

    def send(self, *, proves: bool) -> None:
        """Brings the states to where the graph reads them.

        Args:
            proves: Whether ``take`` is to look whether the run left them alone.
        """
        self._before = [past.array.copy() for past in self._past] if proves else None
        for past in self._past:
            past.send()

    def take(self, outputs: Sequence[onnxruntime.OrtValue]) -> None:
        """Takes what the run gave.

        Args:
            outputs: One for each state.

        Raises:
            BackendError: The runtime wrote elsewhere, or to what it was to read.
        """
        for name, target, output in zip(self._names, self._target, outputs, strict=True):
            if output.data_ptr() != target.address:
                raise BackendError(
                    f"ONNX Runtime put {name!r} elsewhere than it was bound to",
                    remedy='Try options={"optimize": "none"}; please report the model.',
                )
            fetched = target.fetched()
            if fetched is not target.array:
                target.array[...] = fetched.view(target.array.dtype)
        for name, old, past in zip(self._names, self._before or (), self._past, strict=False):
            if past.fetched().tobytes() != old.tobytes():
                raise BackendError(
                    f"ONNX Runtime wrote to the past of {name!r}, which a rewind needs",
                    remedy='Try options={"optimize": "none"}; please report the model.',
                )
        self.states.wrote(self._rows)
