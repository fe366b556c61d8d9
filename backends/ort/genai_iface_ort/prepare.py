# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The graph of a folder, made ready for the session: widened, freed of its capacity, lowered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import onnx_ir as ir

from genai_iface.folder import GraphContract, ModelFolder, derive_contract
from genai_iface.transform import SymbolicCapacity
from genai_iface.types import Device
from genai_iface_ort.lowering import lower
from genai_iface_ort.options import LoadOptions
from genai_iface_ort.upcast import upcast_bfloat16

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph ready to load.

    Attributes:
        model: The rewritten graph, or None where the file is used as it is.
        contract: How to drive it.
        notes: What was done and why, one line each.
        logits_positions: See ``Session``.
        query_seqlens: See ``Session``.
    """

    model: ir.Model | None
    contract: GraphContract
    notes: tuple[str, ...] = ()
    logits_positions: str | None = None
    query_seqlens: str | None = None


def prepare(folder: ModelFolder, options: LoadOptions, device: Device) -> Prepared:
    """Rewrites the graph as the options and the device ask for.

    Raises:
        UnsupportedModelError: The device cannot run it.
    """
    contract, notes = folder.contract, list[str]()
    model: ir.Model | None = None
    on_cpu = device.kind == "cpu"
    if on_cpu and any(layer.dtype == "bfloat16" for layer in contract.cache.layers):
        model = folder.load_ir()
        notes.append(upcast_bfloat16(model, contract))
        contract = dataclasses.replace(contract, logits_dtype="float32")
    if on_cpu and contract.cache.fixed_capacity is not None:
        model = folder.load_ir() if model is None else model
        free = SymbolicCapacity(contract)
        free(model)
        notes.append(str(free.note))
        contract = derive_contract(model)
    if options.optimize == "none":
        return Prepared(model, contract, tuple(notes))
    lowered = lower(
        folder.load_ir() if model is None else model, contract, level=options.optimize, device_kind=device.kind
    )
    notes += [str(note) for note in lowered.notes]
    return Prepared(lowered.model, lowered.contract, tuple(notes), lowered.logits_positions, lowered.query_seqlens)
