# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The rewrites whose result uses standard operators only, in their order."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from genai_iface.graph._edit import drop_identities
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.cache.cache_shapes import CacheShapes
from genai_iface.transform.gather_quantized import GatherQuantized
from genai_iface.transform.pack_projections import PackProjections
from genai_iface.transform.rewrite import Note, Rewrite
from genai_iface.transform.select_logits import LOGITS_POSITIONS, SelectLogits
from genai_iface.transform.separate_dequantization import SeparateDequantization

__all__ = ["StandardResult", "apply_standard"]


@dataclass(frozen=True, slots=True)
class StandardResult:
    """What the standard rewrites made of a model.

    Attributes:
        model: The model, changed in place.
        notes: What each rewrite did.
        logits_positions: Name of the graph input that takes the asked positions, None if there is none.
    """

    model: ir.Model
    notes: tuple[Note, ...]
    logits_positions: str | None


def apply_standard(model: ir.Model, signature: GraphSignature, *, pack: bool = True) -> StandardResult:
    """Runs the rewrites that need no particular runtime. Each is exact; the graph still follows the signature.

    Args:
        model: The model, local functions inlined. It is changed in place.
        signature: The signature that was derived from the graph.
        pack: Join the matrices of products that read the same value.
    """
    # An Identity before a cache output or the logits would hide what gives them.
    drop_identities(model)
    infer_shapes(model)
    select = SelectLogits(signature)
    passes: list[Rewrite] = [CacheShapes(signature), GatherQuantized(), SeparateDequantization(), select]
    if pack:
        # Measured: float32 gate and up in one product are slower than in two.
        passes.append(PackProjections(smallest_plain=3))
    for rewrite in passes:
        rewrite(model)
    notes = tuple(rewrite.note for rewrite in passes)
    return StandardResult(model, notes, LOGITS_POSITIONS if select.note.applied else None)
