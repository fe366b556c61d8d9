# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One loaded graph: an ``InferenceSession`` and the signature that drives it."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from genai_iface.errors import BackendError, InvalidInputError
from genai_iface.folder import ModelFolder
from genai_iface.graph import GraphSignature
from genai_iface.types import Device
from genai_iface_ort.huge_pages import HugePages
from genai_iface_ort.lowering.prepare import Prepared, prepare
from genai_iface_ort.lowering.store import write_graph
from genai_iface_ort.options import LoadOptions
from genai_iface_ort.runtime import HOST, ORT_ERRORS, DeviceIndex, device_index

__all__ = ["Session", "open_session"]

_FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
_NO_FALLBACK_ENTRY = "session.disable_cpu_ep_fallback"
# New weights up to this many bytes travel inside the graph, larger ones by way of a file.
_INLINE_LIMIT = 16 << 20
# Smaller constants go inline: the runtime's shape inference does not read files.
_SMALL = 1 << 16
# Failed runs raise, and copies warn, with the same words; the runtime's own log would repeat them.
_ONLY_FATAL = 4
_SETTING_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, AttributeError, TypeError)


@dataclass(frozen=True, slots=True)
class Session:
    """A graph that ONNX Runtime has loaded.

    Attributes:
        runtime: ONNX Runtime's own session.
        signature: How to drive it; its cache style may differ from the folder's after lowering.
        last_only: Whether the graph gives logits for the last position only.
        logits_positions: An input of the lowered graph, int64 (B, K): the columns of input_ids whose
            logits are computed; None where it gives all of them.
        query_seqlens: An input of the lowered graph, int32 (B,): real tokens of each row; None where
            padding is run like tokens.
        device: Where it runs, as the runtime names it.
        notes: What was done to the graph at load and why, one line each.
    """

    runtime: onnxruntime.InferenceSession
    signature: GraphSignature
    last_only: bool
    logits_positions: str | None = None
    query_seqlens: str | None = None
    device: DeviceIndex = HOST
    notes: tuple[str, ...] = ()

    def run(self, binding: onnxruntime.IOBinding, run_options: onnxruntime.RunOptions | None = None) -> None:
        """Runs the graph once. The interpreter lock is free meanwhile.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        try:
            self.runtime.run_with_iobinding(binding, run_options)
        except ORT_ERRORS as error:
            raise BackendError(
                f"ONNX Runtime failed in a step: {_first_line(error)}",
                remedy="The cache has its old length; reset the rows of the step before using them again.",
            ) from error


def open_session(folder: ModelFolder, options: LoadOptions, device: Device) -> Session:
    """Prepares the graph of a folder and loads it.

    Raises:
        InvalidInputError: A session option is not legal.
        UnsupportedModelError: The graph cannot run on the device.
        BackendError: ONNX Runtime refused it.
    """
    settings = _settings(options, device)
    prepared = prepare(folder, options, device)
    signature = prepared.signature
    try:
        file_bytes = sum(path.stat().st_size for path in folder.files)
        with HugePages(options.huge_pages and device.kind == "cpu", file_bytes) as pages:
            runtime = _created(prepared, folder, settings, options, device)
    except OSError as error:
        raise BackendError(
            f"The rewritten graph of {folder.source} cannot be written to disk: {error}",
            remedy='Point TMPDIR to a larger disk, or load with options={"optimize": "none"}.',
        ) from error
    except ORT_ERRORS as error:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {folder.source}: {_first_line(error)}",
            remedy='Try options={"optimize": "none"}, another dtype, or the numpy backend.',
        ) from error
    # Graphs are full of reference cycles, and what is left of the rewriting keeps the file's weights mapped.
    prepared = replace(prepared, model=None)
    gc.collect()
    shape = next(output.shape for output in runtime.get_outputs() if output.name == signature.logits)
    return Session(
        runtime,
        signature,
        # The lowered graph gives as many positions as it is asked for.
        last_only=len(shape) == 3 and shape[1] == 1 and prepared.logits_positions is None,
        logits_positions=prepared.logits_positions,
        query_seqlens=prepared.query_seqlens,
        device=device_index(device),
        notes=(*prepared.notes, pages.note) if pages.note else prepared.notes,
    )


def _settings(options: LoadOptions, device: Device) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ONLY_FATAL
    settings.intra_op_num_threads = options.num_threads
    if device.kind == "cuda" and not options.cpu_fallback:
        settings.add_session_config_entry(_NO_FALLBACK_ENTRY, "1")
    for name, value in options.session_options.items():
        try:
            if "." in name:
                settings.add_session_config_entry(name, str(value))
            elif not name.startswith("_") and not callable(getattr(settings, name)):
                setattr(settings, name, value)
            else:
                raise AttributeError(name)
        except _SETTING_ERRORS as error:
            raise InvalidInputError(
                f"session_options[{name!r}]={value!r} is not legal: {_first_line(error)}",
                remedy="Use attributes of onnxruntime.SessionOptions, or configuration entries with a dot.",
            ) from error
    return settings


def _providers(options: LoadOptions, device: Device) -> list[tuple[str, Mapping[str, str]]]:
    given = {name: str(value) for name, value in options.provider_options.items()}
    if device.kind == "cpu":
        return [("CPUExecutionProvider", given)]
    own = {"device_id": device.identifier.partition(":")[2]}
    if options.cuda_graph:
        own["enable_cuda_graph"] = "1"
    providers: list[tuple[str, Mapping[str, str]]] = [("CUDAExecutionProvider", own | given)]
    return providers if not options.cpu_fallback else [*providers, ("CPUExecutionProvider", {})]


def _created(
    prepared: Prepared, folder: ModelFolder, settings: onnxruntime.SessionOptions, options: LoadOptions, device: Device
) -> onnxruntime.InferenceSession:
    """The session of a file, or of a rewritten graph."""
    providers = _providers(options, device)
    if prepared.model is None:
        return onnxruntime.InferenceSession(prepared.path, settings, providers=providers)
    new = [
        tensor.nbytes
        for value in prepared.model.graph.initializers.values()
        if (tensor := value.const_value) is not None and not isinstance(tensor, ir.ExternalTensor)
    ]
    if sum(new) > _INLINE_LIMIT:
        # From a file the runtime maps the weights and lets them go once it has packed them; of a model given
        # as bytes it keeps everything.
        with tempfile.TemporaryDirectory(prefix="genai-iface-", ignore_cleanup_errors=True) as place:
            path = write_graph(prepared.model, Path(place))
            return onnxruntime.InferenceSession(path, settings, providers=providers)
    settings.add_session_config_entry(_FOLDER_ENTRY, str(folder.weights_folder))
    return onnxruntime.InferenceSession(_serialized(prepared.model), settings, providers=providers)


def _serialized(model: ir.Model) -> bytes:
    """The graph as bytes; large weights stay in the folder's files."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < _SMALL:
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
