# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The graph of a folder, made ready for the session: widened, freed of its capacity, lowered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from genai_iface.errors import GenAIError, UnsupportedModelError
from genai_iface.folder import ModelFolder
from genai_iface.graph import GraphSignature, derive_signature
from genai_iface.transform import GRAPH_ERRORS, SymbolicCapacity
from genai_iface.types import Device
from genai_iface_ort.lowering.lower import lower
from genai_iface_ort.lowering.store import find_stored, store
from genai_iface_ort.lowering.upcast import upcast_bfloat16
from genai_iface_ort.options import LoadOptions

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph ready to load.

    Attributes:
        model: The rewritten graph, or None where a file is used as it is.
        path: The model.onnx that the session loads.
        signature: How to drive it.
        notes: What was done and why, one line each.
        logits_positions: See ``Session``.
        query_seqlens: See ``Session``.
    """

    model: ir.Model | None
    path: Path
    signature: GraphSignature
    notes: tuple[str, ...] = ()
    logits_positions: str | None = None
    query_seqlens: str | None = None


def prepare(folder: ModelFolder, options: LoadOptions, device: Device) -> Prepared:
    """Rewrites the graph as the options and the device ask for, or finds it where an earlier process left it.

    Raises:
        UnsupportedModelError: The device cannot run it.
        InvalidInputError: ``cache_dir`` cannot be used.
    """
    root = options.cache_dir
    stored = find_stored(root, folder, options, device) if root is not None else None
    if stored is None:
        try:
            prepared = _rewrite(folder, options, device)
        except GenAIError:
            raise
        except GRAPH_ERRORS as error:
            raise UnsupportedModelError(
                f"The graph of {folder.source} cannot be rewritten: {type(error).__name__}: {str(error)[:200]}",
                remedy='Check the model with onnx.checker, or load it as it is: options={"optimize": "none"}.',
            ) from error
        if prepared.model is None or root is None:
            return prepared
        facts = {
            "notes": prepared.notes,
            "logits_positions": prepared.logits_positions,
            "query_seqlens": prepared.query_seqlens,
        }
        stored = store(root, prepared.model, prepared.signature, facts, folder, options, device)
    return Prepared(
        None,
        stored.path,
        stored.signature,
        tuple(stored.facts["notes"]),
        stored.facts["logits_positions"],
        stored.facts["query_seqlens"],
    )


def _rewrite(folder: ModelFolder, options: LoadOptions, device: Device) -> Prepared:
    path = folder.model_path
    signature, notes = folder.signature, list[str]()
    model: ir.Model | None = None if folder.is_as_on_disk else folder.load_ir()
    on_cpu = device.kind == "cpu"
    if not on_cpu and signature.cache.style == "concat" and any(x.dtype == "bfloat16" for x in signature.cache.layers):
        raise UnsupportedModelError(
            "On CUDA, past and present tensors of bfloat16 cannot be brought to the processor and back",
            remedy="Convert the folder to TensorScatter, or build it in float16.",
        )
    # An int8 cache does not show what the model computes in; its logits do.
    dtypes = {layer.dtype for layer in signature.cache.layers}
    if on_cpu and ("bfloat16" in dtypes or ("int8" in dtypes and signature.logits_dtype == "bfloat16")):
        model = folder.load_ir() if model is None else model
        notes.append(upcast_bfloat16(model, signature))
        signature = dataclasses.replace(signature, logits_dtype="float32")
    if on_cpu and signature.cache.fixed_capacity is not None:
        model = folder.load_ir() if model is None else model
        free = SymbolicCapacity(signature)
        free(model)
        notes.append(str(free.note))
        signature = derive_signature(model)
    if options.optimize == "none":
        return Prepared(model, path, signature, tuple(notes))
    lowered = lower(
        folder.load_ir() if model is None else model, signature, level=options.optimize, device_kind=device.kind
    )
    notes += [str(note) for note in lowered.notes]
    return Prepared(
        lowered.model, path, lowered.signature, tuple(notes), lowered.logits_positions, lowered.query_seqlens
    )
