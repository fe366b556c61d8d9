# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The logits of a run: where the graph writes them, and the array that the caller gets."""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from genai_iface_ort.runtime import HOST, ORT_TYPES
from genai_iface_ort.session import Session
from genai_iface_ort.steps.bound_array import BoundArray

__all__ = ["LogitsOutput"]

# Up to so many logits keep their memory between steps; more are given back to the system with the step's result.
_FEW_LOGITS = 1 << 20


class LogitsOutput:
    """The bound logits of steps of one shape.

    On the processor the caller gets the memory that the graph has written, without a copy. The next step writes
    there again unless somebody still holds the array or a view of it; then it gets memory of its own. Most
    callers have chosen their token by then, so that no step allocates or copies.

    Args:
        session: The loaded graph.
        binding: Where the output is bound.
        rows: Rows of the runs.
        count: Logits per row.
    """

    def __init__(self, session: Session, binding: onnxruntime.IOBinding, rows: int, count: int) -> None:
        signature = session.signature
        self._binding = binding
        self._name, self._onnx_type = signature.logits, ORT_TYPES[signature.logits_dtype]
        self._shape = (rows, count, signature.vocab_size)
        self._is_bfloat16 = signature.logits_dtype == "bfloat16"
        self._dtype = np.dtype("uint16" if self._is_bfloat16 else signature.logits_dtype)
        self._is_large = rows * count * signature.vocab_size > _FEW_LOGITS
        self._memory: memoryview | None = None
        # The array that lies over the memory; views of it keep it alive, because its own base is not an array.
        self._given: weakref.ref[NDArray[Any]] | None = None
        self._on_device: BoundArray | None = None
        if session.device == HOST:
            self._bind_memory()
        else:
            self._on_device = BoundArray(np.empty(self._shape, self._dtype), session.device)
            binding.bind_output(self._name, *session.device, self._onnx_type, self._shape, self._on_device.address)

    @property
    def is_float32(self) -> bool:
        """Whether the graph writes what callers expect."""
        return self._dtype == np.float32

    def prepare(self) -> None:
        """Has to come before each run: what callers have kept is not written again."""
        given = self._given
        if self._on_device is None and (self._memory is None or (given is not None and given() is not None)):
            self._bind_memory()

    def values(self) -> NDArray[Any]:
        """What the run wrote, (rows, count, V), in an array that nobody else has."""
        if self._on_device is not None:
            values = self._on_device.fetched()
        else:
            values = np.ndarray(self._shape, self._dtype, self._memory)
            self._given = weakref.ref(values)
            if self._is_large:
                self._memory = None
        return (values.astype(np.uint32) << 16).view(np.float32) if self._is_bfloat16 else values

    def _bind_memory(self) -> None:
        nbytes = math.prod(self._shape) * self._dtype.itemsize
        # By way of ctypes: NumPy would make a plain array, and not the one that is given out, the base of views.
        owner = (ctypes.c_uint8 * nbytes).from_buffer(np.empty(nbytes, np.uint8).data)
        self._memory, self._given = memoryview(owner), None
        address = ctypes.addressof(owner)
        self._binding.bind_output(self._name, *HOST, self._onnx_type, self._shape, address)
