# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The interface on OpenVINO, from an empty file: backend, model, cache, adapter.

pip install genai-iface openvino
genai-iface conformance examples.new_runtime.openvino_runtime:OpenVinoAdapter

OpenVINO 2026.4 has no TensorScatter, so this drives models whose cache grows (past/present). Such tensors have
one length for all rows: each row keeps tensors of its own, and rows run one after the other. Nothing is padded.
"""

import copy
import importlib.metadata
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import ArrayLike, NDArray

from genai_iface import BackendError, BackendInfo, Capability, Device, InvalidInputError, UnsupportedModelError
from genai_iface import backend_kit as kit
from genai_iface.folder import ModelFolder, open_folder
from genai_iface.transform import LOGITS_POSITIONS, SelectLogits
from genai_iface.types import LogitsMode, UpdateMode

Array = NDArray[Any]

CAPABILITIES: frozenset[str] = frozenset(
    {
        Capability.BATCH,
        Capability.RAGGED,
        Capability.CHUNKED_PREFILL,
        Capability.LOGITS_ALL,
        Capability.REWIND,
        Capability.REORDER,
        Capability.GROWTH,
        Capability.CACHE_CONCAT,
        Capability.FORK,
        Capability.INSPECT,
    }
)


class OpenVinoCache:
    """Per row a list of tensors (1, Hkv, L, D), two per layer, key first."""

    update_mode: UpdateMode = "copied"

    def __init__(self, model: "OpenVinoModel", rows: kit.RowLengths) -> None:
        self.model, self.rows = model, rows
        self.bytes_per_token = model.spec.cache.bytes_per_token
        self.tensors = [model.empty_row() for _ in range(rows.batch_size)]

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
        return sum(tensor.nbytes for row in self.tensors for tensor in row)

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        return self.rows.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        wanted = self.rows.check_rewind(lengths)
        # A copy, so that the forgotten tokens take no memory.
        self.tensors = [
            [tensor[:, :, :length].copy() for tensor in row] for row, length in zip(self.tensors, wanted, strict=True)
        ]
        self.rows.rewind_to(wanted)

    def reorder(self, indices: ArrayLike, /) -> None:
        wanted = self.rows.check_reorder(indices)
        # Steps make new tensors and never write to old ones: rows may share them.
        self.tensors = [list(self.tensors[index]) for index in wanted]
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        for row in self.rows.check_reset(rows):
            self.tensors[row] = self.model.empty_row()
        self.rows.reset(rows)

    def close(self) -> None:
        self.rows.close()
        self.tensors = []

    def fork(self) -> "OpenVinoCache":
        twin = copy.copy(self)
        twin.rows, twin.tensors = self.rows.fork(), [list(row) for row in self.tensors]
        return twin

    def read(self, layer: int, row: int, /) -> tuple[Array, Array]:
        self.rows.check_read(layer, row, len(self.model.spec.cache.layers))
        key, value = self.tensors[row][2 * layer : 2 * layer + 2]
        return key[0].copy(), value[0].copy()


class OpenVinoModel:
    """One graph, compiled once; the signature says which input is what."""

    capabilities = CAPABILITIES

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        self.signature, self.spec, self.device = folder.signature, folder.spec, device
        self._inputs = kit.GraphInputs(self.signature, context_length=self.spec.context_length)
        graph = folder.load_ir()
        # A lowering of the SDK: logits only where they are asked for.
        select = SelectLogits(self.signature)
        select(graph)
        self._selects = select.note.applied
        ir.external_data.load_to_model(graph)
        try:
            # float32 stays float32: by default the plugin may compute in bfloat16, and in int8 where weights are int8.
            settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
            core = openvino.Core()
            network = core.read_model(ir.to_proto(graph).SerializeToString())
            self._request = core.compile_model(network, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"OpenVINO cannot compile {folder.path}: {str(error)[:200]}", remedy="Use another backend."
            ) from error

    def empty_row(self) -> list[Array]:
        shapes = [(layer.num_kv_heads, layer.key_head_dim, layer.value_head_dim) for layer in self.spec.cache.layers]
        return [np.zeros((1, heads, 0, size), np.float32) for heads, *sizes in shapes for size in sizes]

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> OpenVinoCache:
        kit.check_loaded(self._request)
        most = kit.check_batch_and_capacity(batch_size, capacity, kit.capacity_bound(self.spec))
        return OpenVinoCache(self, kit.RowLengths(batch_size, most, owner=self))

    def forward(
        self,
        input_ids: ArrayLike,
        cache: OpenVinoCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        kit.check_loaded(self._request)
        rows, size = kit.check_cache(cache, self), self.spec.vocab_size
        step = kit.check_step(input_ids, counts, logits, lengths=rows.lengths, capacity=rows.capacity, vocab_size=size)
        result = kit.empty_logits(step, size)
        tensors = list(cache.tensors)
        for row in np.flatnonzero(step.counts):
            # One row from its length on, without padding.
            alone, count = slice(row, row + 1), int(step.counts[row])
            run = kit.GraphRun(alone, slice(0, count), rows.lengths[alone], step.counts[alone])
            values, tensors[row] = self._run(step, run, tensors[row])
            kit.store_logits(result, values, step, run)
        # Only now: a failed run leaves the cache as it was.
        cache.tensors = tensors
        rows.advance(step.counts)
        return result

    def close(self) -> None:
        self._request = None

    def _run(self, step: kit.Step, run: kit.GraphRun, past: list[Array]) -> tuple[Array, list[Array]]:
        """Logits (1, K, V) of the columns that are asked for, and the row's new tensors."""
        signature, asked = self.signature, kit.asked_columns(step, run)
        feeds: dict[str, Any] = self._inputs.feeds(step, run)
        feeds |= {tensor.past: array for tensor, array in zip(signature.cache_tensors, past, strict=True)}
        if self._selects:
            feeds[LOGITS_POSITIONS] = asked
        try:
            outputs = self._request.infer(feeds)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {str(error)[:200]}", remedy="Use another backend.") from error
        # The request reuses its buffers: what is kept must be copied.
        present = [outputs[tensor.present].copy() for tensor in signature.cache_tensors]
        logits = outputs[signature.logits]
        return (logits if self._selects else logits[:, asked[0]]), present


class OpenVinoBackend:
    """What the registry and the kit see."""

    def info(self) -> BackendInfo:
        return BackendInfo(
            name="openvino",
            version="0.1.0",
            runtime="openvino",
            runtime_version=importlib.metadata.version("openvino"),
            interface_versions=frozenset({1}),
            capabilities=CAPABILITIES,
            dtypes=frozenset({"float32"}),
        )

    def devices(self) -> list[Device]:
        return [Device("cpu", "cpu")]

    def load(self, folder: Any, /, *, device: str | None = None, options: Any = None) -> OpenVinoModel:
        if device not in (None, "cpu"):
            raise InvalidInputError(f"There is no device {device!r} here", remedy='Use "cpu".')
        if options:
            raise InvalidInputError(f"There is no option {sorted(options)[0]!r}", remedy="Give none.")
        opened = open_folder(folder)
        cache = opened.spec.cache
        if cache.style != "concat" or cache.layout != "bnsh" or {layer.dtype for layer in cache.layers} != {"float32"}:
            raise UnsupportedModelError(
                f"{opened.path} has a {cache.style} cache, layout {cache.layout}; this example runs float32 concat "
                "caches of rank 4 only",
                remedy="Export the model with past and present tensors, or use another backend.",
            )
        return OpenVinoModel(opened, self.devices()[0])

    def run_node(self, model: bytes, inputs: dict[str, Array], /) -> list[Array]:
        core = openvino.Core()
        network = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results = network.create_infer_request().infer(inputs)
        return [results[output].copy() for output in network.outputs]


class OpenVinoAdapter:
    """All that the conformance kit needs."""

    name = "openvino"

    def backend(self) -> OpenVinoBackend:
        return OpenVinoBackend()
