# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The interface on OpenVINO, from an empty file: backend, model, cache, adapter.

pip install genai-iface openvino
genai-iface conformance examples.new_runtime.openvino_runtime:OpenVinoAdapter

OpenVINO 2026.4 has no TensorScatter, so this drives models whose cache grows (past/present). Such tensors have
one length for all rows: each row keeps tensors of its own, and rows run one after the other. Nothing is padded.
"""

import importlib.metadata
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import ArrayLike, NDArray

from genai_iface import BackendError, BackendInfo, Capability, Device, InvalidInputError, UnsupportedModelError
from genai_iface.backend_kit import check_batch_and_capacity, check_indices, check_lengths, check_rows, check_step
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

    def __init__(self, model: "OpenVinoModel", batch_size: int, capacity: int) -> None:
        self.model = model
        self.capacity = capacity
        self.rows = [model.empty_row() for _ in range(batch_size)]
        self._lengths = np.zeros(batch_size, np.int64)
        self.is_closed = False

    @property
    def batch_size(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._lengths.copy()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for row in self.rows for tensor in row)

    @property
    def bytes_per_token(self) -> int:
        return self.model.spec.cache.bytes_per_token

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        check_lengths(lengths, self._lengths)
        return True

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        wanted = check_lengths(lengths, self._lengths)
        # A copy, so that the forgotten tokens take no memory.
        self.rows = [
            [tensor[:, :, :length].copy() for tensor in row] for row, length in zip(self.rows, wanted, strict=True)
        ]
        self._lengths = wanted

    def reorder(self, indices: ArrayLike, /) -> None:
        wanted = check_indices(indices, self.batch_size)
        # Steps make new tensors and never write to old ones: rows may share them.
        self.rows = [list(self.rows[index]) for index in wanted]
        self._lengths = self._lengths[wanted]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        for row in check_rows(rows, self.batch_size):
            self.rows[row] = self.model.empty_row()
            self._lengths[row] = 0

    def close(self) -> None:
        self.rows = []
        self.is_closed = True

    def fork(self) -> "OpenVinoCache":
        fork = OpenVinoCache(self.model, 0, self.capacity)
        fork.rows, fork._lengths = [list(row) for row in self.rows], self.lengths
        return fork

    def read(self, layer: int, row: int, /) -> tuple[Array, Array]:
        if not 0 <= row < self.batch_size:
            raise InvalidInputError(f"Row {row} is not in a cache of {self.batch_size} rows", remedy="Count from 0.")
        key, value = self.rows[row][2 * layer : 2 * layer + 2]
        return key[0].copy(), value[0].copy()

    def advance(self, counts: NDArray[np.int64]) -> None:
        self._lengths = self._lengths + counts


class OpenVinoModel:
    """One graph, compiled once; the signature says which input is what."""

    capabilities = CAPABILITIES

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        self.signature, self.spec, self.device = folder.signature, folder.spec, device
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
        limit = self.spec.context_length
        check_batch_and_capacity(batch_size, capacity, limit)
        return OpenVinoCache(self, batch_size, capacity or limit or 2**31 - 1)

    def forward(
        self,
        input_ids: ArrayLike,
        cache: OpenVinoCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        if self._request is None or cache.is_closed or cache.model is not self:
            raise InvalidInputError("The model or the cache is closed, or of another model", remedy="Make a new one.")
        lengths, vocab_size = cache.lengths, self.spec.vocab_size
        step = check_step(input_ids, counts, logits, lengths=lengths, capacity=cache.capacity, vocab_size=vocab_size)
        batch_size, width = step.input_ids.shape
        num_kept = {"last": 1, "all": width, "none": 0}[step.logits]
        result = np.zeros((batch_size, num_kept, vocab_size), np.float32)
        rows = list(cache.rows)
        for row in np.flatnonzero(step.counts):
            count = int(step.counts[row])
            positions = np.arange(count) if step.logits == "all" else np.array([count - 1][:num_kept], np.int64)
            ids = step.input_ids[row : row + 1, :count]
            got, rows[row] = self._run(ids, int(lengths[row]), cache.rows[row], positions)
            result[row, : len(positions)] = got
        # Only now: a failed run leaves the cache as it was.
        cache.rows = rows
        cache.advance(step.counts)
        return result

    def close(self) -> None:
        self._request = None

    def _run(self, ids: Array, begin: int, past: list[Array], positions: Array) -> tuple[Array, list[Array]]:
        """One row from its length on: logits (K, V) at the asked positions, and the row's new tensors."""
        end = begin + ids.shape[1]
        by_role = {
            "input_ids": ids,
            "position_ids": np.arange(begin, end)[None],
            "attention_mask": np.ones((1, end), np.int64),
        }
        signature = self.signature
        feeds = {
            name: by_role[role].astype(signature.input_dtypes[role], copy=False)
            for role, name in signature.inputs.items()
        }
        feeds |= {tensor.past: array for tensor, array in zip(signature.cache_tensors, past, strict=True)}
        if self._selects:
            feeds[LOGITS_POSITIONS] = positions[None]
        try:
            outputs = self._request.infer(feeds)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {str(error)[:200]}", remedy="Use another backend.") from error
        # The request reuses its buffers: what is kept must be copied.
        present = [outputs[tensor.present].copy() for tensor in signature.cache_tensors]
        logits = outputs[signature.logits][0]
        return (logits if self._selects else logits[positions]), present


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


class OpenVinoAdapter:
    """All that the conformance kit needs."""

    name = "openvino"

    def backend(self) -> OpenVinoBackend:
        return OpenVinoBackend()
