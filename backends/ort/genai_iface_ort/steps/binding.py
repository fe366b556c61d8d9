# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of one shape of step, bound once and then only rewritten in place."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface.backend_kit import GraphRun, Step, asked_columns
from genai_iface.graph import InputRole
from genai_iface.types import LogitsMode
from genai_iface_ort.runtime import HOST, ORT_TYPES, DeviceIndex
from genai_iface_ort.session import Session
from genai_iface_ort.steps.bound_array import BoundArray
from genai_iface_ort.steps.logits import LogitsOutput

__all__ = ["StepInputs", "view_of"]

_SHAPES: dict[InputRole, str] = {
    "input_ids": "matrix",
    "position_ids": "matrix",
    "write_indices": "vector",
    "counts": "vector",
    "nonpad_kv_seqlen": "vector",
    "seqlens_k": "vector",
    "total_sequence_length": "scalar",
}


class StepInputs:
    """The inputs besides the cache, and the logits, for steps of one shape.

    The arrays live as long as this object: ONNX Runtime keeps their addresses only.

    Args:
        session: The loaded graph.
        rows: Rows of the runs.
        width: Tokens per row.
        total: The most columns that an attention mask will have.
        logits: Which logits are wanted.
    """

    def __init__(self, session: Session, rows: int, width: int, total: int, logits: LogitsMode) -> None:
        self.session = session
        self.binding: onnxruntime.IOBinding = session.runtime.io_binding()
        self.shape = (rows, width)
        self._on_host = session.device == HOST
        signature = session.signature
        shapes: dict[str, tuple[int, ...]] = {"matrix": (rows, width), "vector": (rows,), "scalar": ()}
        self._bound: list[BoundArray] = []
        self._arrays: dict[InputRole, NDArray[Any]] = {}
        for role, name in signature.inputs.items():
            if role in _SHAPES:
                array = np.zeros(shapes[_SHAPES[role]], signature.input_dtypes[role])
                self._arrays[role] = array
                # GroupQueryAttention reads the total on the processor, on every device.
                on_host = role == "total_sequence_length"
                self._bind_input(name, array, signature.input_dtypes[role], HOST if on_host else session.device)
        self._mask: NDArray[Any] | None = None
        if "attention_mask" in signature.inputs:
            self._mask = np.ones(rows * total, signature.input_dtypes["attention_mask"])
        self._options: onnxruntime.RunOptions | None = None
        self._num_logits = width
        if session.last_only or (session.logits_positions is not None and logits != "all"):
            self._num_logits = 1
        self._positions = np.zeros((rows, self._num_logits), np.int64)
        if session.logits_positions is not None:
            self._positions[...] = np.arange(self._num_logits)
            self._bind_input(session.logits_positions, self._positions, "int64", session.device)
        self._counts = np.zeros(rows, np.int32)
        if session.query_seqlens is not None:
            self._bind_input(session.query_seqlens, self._counts, "int32", session.device)
        self._picks_last = session.logits_positions is not None and logits == "last" and width > 1
        self._logits: LogitsOutput | None = None
        if logits != "none":
            self._logits = LogitsOutput(session, self.binding, rows, self._num_logits)
        else:
            # What only leads to the logits, the LM head above all, is left out.
            self._options = onnxruntime.RunOptions()
            self._options.only_execute_path_to_fetches = True

    def _bind_input(self, name: str, array: NDArray[Any], dtype: str, device: DeviceIndex) -> None:
        bound = BoundArray(array, device)
        self._bound.append(bound)
        self.binding.bind_input(name, *device, ORT_TYPES[dtype], array.shape, bound.address)

    def set(self, values: Mapping[InputRole, NDArray[Any]], step: Step, run: GraphRun[Any], /) -> None:
        """Writes the inputs of the next run.

        Args:
            values: By role, of any integer type.
            step: The step as the caller asked for it, checked.
            run: The rows and columns of the step that this run computes.
        """
        for role, array in self._arrays.items():
            array[...] = values[role]
        self._counts[...] = run.counts
        if self._picks_last:
            self._positions[...] = asked_columns(step, run)
        if self._mask is not None:
            # Its shape follows the lengths, so it is bound anew each time.
            given = values["attention_mask"]
            mask = self._mask[: given.size].reshape(given.shape)
            mask[...] = given
            name, dtype = self.session.signature.inputs["attention_mask"], ORT_TYPES[self._mask.dtype.name]
            self.binding.bind_input(name, *HOST, dtype, mask.shape, mask.ctypes.data)

    def cache_outputs(self, count: int) -> list[onnxruntime.OrtValue]:
        """What the last run gave for the cache tensors, in the order in which they were bound, one after the other."""
        outputs: list[onnxruntime.OrtValue] = self.binding.get_outputs()
        return outputs[len(outputs) - count :]

    def decode_inputs(
        self,
    ) -> tuple[NDArray[Any], list[NDArray[Any]], list[tuple[NDArray[Any], int]], NDArray[Any] | None]:
        """What changes in a step of width 1 on the processor, without a mask.

        Returns:
            The token ids (rows, 1); arrays of counts (rows,); arrays (rows,) that take each row's length plus an
            offset; the scalar that takes the longest row after the step, or None.
        """
        offsets: dict[InputRole, int] = {"position_ids": 0, "write_indices": 0, "nonpad_kv_seqlen": 1, "seqlens_k": 0}
        by_length = [
            (self._arrays[role].reshape(-1), offset) for role, offset in offsets.items() if role in self._arrays
        ]
        counts = [self._counts, *(self._arrays[role] for role in ("counts",) if role in self._arrays)]
        return self._arrays["input_ids"], counts, by_length, self._arrays.get("total_sequence_length")

    @property
    def can_decode(self) -> bool:
        """Whether ``decode_inputs`` says all that changes."""
        is_plain = self._mask is None and self._logits is not None and self._logits.is_float32
        return self._on_host and is_plain and self.shape[1] == 1

    def run(self) -> NDArray[Any]:
        """Runs the graph.

        Returns:
            The logits, (rows, width or 1, V), in an array that nobody else has; (rows, 0, V) if not wanted.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        if not self._on_host:
            for bound in self._bound:
                bound.send()
            self.binding.synchronize_inputs()
        if self._logits is None:
            self.session.run(self.binding, self._options)
            return np.empty((self.shape[0], 0, self.session.signature.vocab_size), np.float32)
        self._logits.prepare()
        self.session.run(self.binding, self._options)
        return self._logits.values()


def view_of(value: onnxruntime.OrtValue, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The memory of an OrtValue as an array, of any element type of that size.

    On the processor it is the memory itself, which the caller keeps alive; elsewhere a copy.
    """
    if value.device_name().lower() != "cpu":
        copied: NDArray[Any] = value.numpy()
        return copied
    shape = tuple(value.shape())
    count = int(np.prod(shape))
    if not count:
        return np.zeros(shape, dtype)
    memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(value.data_ptr())
    view: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
    return view
