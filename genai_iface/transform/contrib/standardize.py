# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A whole model in standard operators, at load, for a runtime without contrib ones."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

from genai_iface.graph._inference import infer_shapes
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform._raise_opset import check_age, raise_opset
from genai_iface.transform.contrib.operators import OPSET, StandardOperators, check_standard, has_foreign_nodes
from genai_iface.transform.contrib.shared_cache import SharedCache
from genai_iface.transform.rewrite import Note

__all__ = ["Standardized", "standardize"]


@dataclass(frozen=True, slots=True)
class Standardized:
    """A model that uses standard operators only.

    Attributes:
        model: The model, changed in place.
        signature: Its signature; another one than before if the cache was GroupQueryAttention's.
        notes: What was done; empty if the model was standard already.
    """

    model: ir.Model
    signature: GraphSignature
    notes: tuple[Note, ...]


def standardize(model: ir.Model, signature: GraphSignature) -> Standardized:
    """Writes contrib operators in standard ones, each exactly. GroupQueryAttention's cache becomes TensorScatter's.

    Args:
        model: The model, local functions inlined. It is changed in place, or left alone if it is standard.
        signature: The signature that was derived from the graph.

    Raises:
        UnsupportedModelError: A node has no standard form; the message names it and says why.
    """
    if not has_foreign_nodes(model):
        return Standardized(model, signature, ())
    check_age(signature.opset)
    IdentityEliminationPass()(model)
    operators = StandardOperators()
    operators(model)
    raise_opset(model, max(OPSET, signature.opset))
    notes = [operators.note]
    if signature.cache.style == "shared":
        shared = SharedCache(signature)
        shared(model)
        notes.append(shared.note)
    check_standard(model)
    infer_shapes(model)
    return Standardized(model, derive_signature(model), tuple(notes))
