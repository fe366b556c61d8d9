# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The interface on a plain onnxruntime.InferenceSession, batched and in place, from an empty file.

pip install genai-iface onnxruntime
genai-iface conformance examples.new_runtime.onnxruntime_runtime:OrtAdapter --level 4

The graph runs as it is on disk: TensorScatter writes into a buffer that is bound as past and as present. What is not
ONNX Runtime's own here (argument checks, row lengths, the plan of a step, values of the graph's inputs, the file
format of caches) comes from genai_iface.backend_kit.
"""

import copy
import dataclasses
import os
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: a library must not report on its users

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from genai_iface import BackendError, BackendInfo, Capability, Device, InvalidInputError, UnsupportedModelError
from genai_iface import backend_kit as kit
from genai_iface.folder import ModelFolder, open_folder
from genai_iface.types import LogitsMode, UpdateMode

Array = NDArray[Any]

ERRORS = (native.Fail, native.InvalidArgument, native.InvalidGraph, native.NotImplemented, native.RuntimeException)
FLOAT32, PROVIDERS = 1, ["CPUExecutionProvider"]  # 1 is the type's ONNX number

CAPABILITIES: frozenset[str] = frozenset(
    {
        Capability.BATCH,
        Capability.RAGGED,
        Capability.CHUNKED_PREFILL,
        Capability.LOGITS_ALL,
        Capability.REWIND,
        Capability.REORDER,
        Capability.IN_PLACE,
        Capability.CACHE_SCATTER,
        Capability.CACHE_CIRCULAR,
        Capability.FORK,
        Capability.INSPECT,
        Capability.SAVE,
    }
)


class OrtCache:
    """One array per cache tensor, two per layer, key first: (B, Hkv, C, D) or (B, C, Hkv * D)."""

    update_mode: UpdateMode = "in_place"

    def __init__(self, model: "OrtModel", rows: kit.RowLengths) -> None:
        self.model, self.rows = model, rows
        self.bytes_per_token = model.spec.cache.bytes_per_token
        # Kernels cost by the buffer's length on the processor; a backend that cares lets it grow (see backends/ort).
        self.buffers = [np.zeros(shape, np.float32) for shape in model.shapes(rows.batch_size, rows.capacity)]

    @property
    def batch_size(self) -> int:
        return self.rows.batch_size

    @property
    def capacity(self) -> int:
        return self.rows.capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.rows.lengths

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        return self.rows.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        # What lies beyond a length is never read: nothing moves.
        self.rows.rewind_to(lengths)

    def reorder(self, indices: ArrayLike, /) -> None:
        wanted = self.rows.check_reorder(indices)
        self.buffers = [buffer[wanted] for buffer in self.buffers]
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        self.rows.reset(rows)

    def close(self) -> None:
        self.rows.close()
        self.buffers = []

    def fork(self) -> "OrtCache":
        twin = copy.copy(self)
        twin.rows, twin.buffers = self.rows.fork(), [buffer.copy() for buffer in self.buffers]
        return twin

    def read(self, layer: int, row: int, /) -> tuple[Array, Array]:
        length = self.rows.check_read(layer, row, len(self.model.layers))
        order = kit.stored_positions(length, self.model.windows[layer])
        key, value = (self._by_head(2 * layer + kind, row)[:, order] for kind in (0, 1))
        return key, value

    def restore(self, row: int, length: int, tokens: list[Array], /) -> None:
        for index, part in enumerate(tokens):
            self._by_head(index, row)[:, kit.stored_positions(length, self.model.windows[index // 2])] = part
        self.rows.restore(row, length)

    def _by_head(self, index: int, row: int) -> Array:
        """One row of a buffer as (Hkv, C, D), a view."""
        heads = self.model.layers[index // 2].num_kv_heads
        buffer: Array = self.buffers[index][row]
        return buffer if self.model.axis == 2 else buffer.reshape(len(buffer), heads, -1).swapaxes(0, 1)


class OrtModel:
    """One graph, loaded once; the signature says which input is what."""

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        self.signature, self.spec, self.device, self._folder = folder.signature, folder.spec, device, folder
        self.layers = self.spec.cache.layers
        self.windows = [layer.capacity if layer.mode == "circular" else None for layer in self.layers]
        self.axis = 2 if self.spec.cache.layout == "bnsh" else 1
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(folder.path / "model.onnx", options, providers=PROVIDERS)
        except ERRORS as error:
            raise BackendError(f"Cannot load {folder.path}: {str(error)[:200]}", remedy="Use another one.") from error
        shape = next(output.shape for output in self._session.get_outputs() if output.name == self.signature.logits)
        self._inputs = kit.GraphInputs(self.signature, context_length=self.spec.context_length)
        self._rules = dataclasses.replace(self._inputs.rules, only_last_logits=shape[1] == 1)

    @property
    def capabilities(self) -> frozenset[str]:
        return CAPABILITIES - {Capability.REWIND if self.spec.cache.is_circular else Capability.CACHE_CIRCULAR}

    def shapes(self, batch_size: int, capacity: int) -> list[tuple[int, ...]]:
        """The shapes of all cache tensors."""
        sizes = [
            (layer.num_kv_heads, layer.capacity or capacity, size)
            for layer in self.layers
            for size in (layer.key_head_dim, layer.value_head_dim)
        ]
        if self.axis == 2:
            return [(batch_size, *size) for size in sizes]
        return [(batch_size, positions, heads * size) for heads, positions, size in sizes]

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> OrtCache:
        kit.check_loaded(self._session)
        most = kit.check_batch_and_capacity(batch_size, capacity, kit.capacity_bound(self.spec))
        try:
            return OrtCache(self, kit.RowLengths(batch_size, most, owner=self, windows=self.windows))
        except MemoryError as error:
            raise BackendError(
                f"No memory for {batch_size} rows of {most}", remedy="Pass a smaller capacity."
            ) from error

    def forward(
        self, input_ids: ArrayLike, cache: OrtCache, /, *, counts: ArrayLike | None = None, logits: LogitsMode = "last"
    ) -> NDArray[np.float32]:
        kit.check_loaded(self._session)
        rows, size = kit.check_cache(cache, self), self.spec.vocab_size
        step = kit.check_step(input_ids, counts, logits, lengths=rows.lengths, capacity=rows.capacity, vocab_size=size)
        result = kit.empty_logits(step, size)
        room = self.spec.cache.fixed_capacity or rows.capacity
        # Ragged rows in as few rectangles as padding allows; where padding finds no room, row by row.
        for run in kit.plan_in_place(step, rows.lengths, self._rules, make_room=lambda _: room):
            kit.store_logits(result, self._run(step, run, cache), step, run)
        rows.advance(step.counts)
        return result

    def _run(self, step: kit.Step, run: kit.GraphRun, cache: OrtCache) -> Array:
        """The logits (rows, S, V) of one run; the new keys and values go into the buffers."""
        binding = self._session.io_binding()
        feeds = self._inputs.feeds(step, run, mask_width=cache.buffers[0].shape[self.axis])
        # ONNX Runtime keeps addresses only: these arrays live until the run is over.
        arrays = {name: np.ascontiguousarray(values) for name, values in feeds.items()}
        for name, values in arrays.items():
            binding.bind_cpu_input(name, values)
        bound = []
        for tensor, buffer in zip(self.signature.cache_tensors, cache.buffers, strict=True):
            # A value over the memory of these rows, not a copy.
            value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(buffer[run.rows], FLOAT32)
            binding.bind_ortvalue_input(tensor.past, value)
            binding.bind_ortvalue_output(tensor.present, value)
            bound.append(value)
        binding.bind_output(self.signature.logits, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except ERRORS as error:
            raise BackendError(f"ONNX Runtime failed: {str(error)[:200]}", remedy="Use another backend.") from error
        *present, logits = binding.get_outputs()
        # What is promised is observed: in place means that the runtime wrote where it was told to.
        moved = [index for index, value in enumerate(present) if value.data_ptr() != bound[index].data_ptr()]
        for index in moved:
            cache.buffers[index][run.rows] = present[index].numpy()
        cache.update_mode = "copied" if moved else "in_place"
        result: Array = logits.numpy()
        return result

    def save_cache(self, cache: OrtCache, path: str | os.PathLike[str], /) -> None:
        kit.check_loaded(self._session)
        kit.check_cache(cache, self)
        kit.save_cache(cache, path, folder=self._folder)

    def load_cache(self, path: str | os.PathLike[str], /, *, capacity: int | None = None) -> OrtCache:
        return kit.load_cache(path, self.create_cache, folder=self._folder, capacity=capacity)

    def close(self) -> None:
        self._session = None


class OrtBackend:
    """What the registry and the kit see."""

    def info(self) -> BackendInfo:
        runtime = "onnxruntime", onnxruntime.__version__
        return BackendInfo("plain-ort", "0.1.0", *runtime, frozenset({1}), CAPABILITIES, frozenset({"float32"}))

    def devices(self) -> list[Device]:
        return [Device("cpu", "cpu")]

    def load(self, folder: Any, /, *, device: str | None = None, options: Any = None) -> OrtModel:
        if device not in (None, "cpu") or options:
            raise InvalidInputError(f"No device {device!r}, no options {options!r} here", remedy='Use "cpu" and none.')
        opened = open_folder(folder)
        cache = opened.spec.cache
        if cache.style != "scatter" or {layer.dtype for layer in cache.layers} != {"float32"}:
            raise UnsupportedModelError(
                f"{opened.path} has a {cache.style} cache; this example runs TensorScatter in float32 only",
                remedy="Convert the model, or use another backend.",
            )
        return OrtModel(opened, self.devices()[0])


class OrtAdapter:
    """All that the conformance kit needs."""

    name = "plain-ort"

    def backend(self) -> OrtBackend:
        return OrtBackend()
