# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A whole model in standard operators: at load, for a runtime without contrib ones, and as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

from genai_iface.graph._edit import infer_shapes
from genai_iface.graph._walk import unsupported
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.convert.cache_surgery import Converted, LayerNote, finished
from genai_iface.transform.convert.scatter_cache import to_scatter
from genai_iface.transform.raise_opset import check_age, raise_opset
from genai_iface.transform.rewrite import Note
from genai_iface.transform.standardize.operators import OPSET, StandardOperators, check_standard, has_foreign_nodes
from genai_iface.transform.standardize.shared_cache import SharedCache

__all__ = ["Standardized", "standardize", "to_standard"]


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
        signature: Its signature.

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


def to_standard(
    model: ir.Model,
    *,
    capacity: int | None = None,
    numbers: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Rewrites a decoder for the standard operators of opset 24 alone, its cache for TensorScatter.

    Quantized weights keep their integers: packed ones become blocked DequantizeLinear with the same numbers.

    Args:
        model: The model, local functions inlined. It is changed in place.
        capacity: Positions of the cache, None to leave them symbolic.
        numbers: Integers of config.json among which a sliding window may be.
        progress: Called with (layers done, all layers).

    Raises:
        UnsupportedModelError: A node has no standard form, or the cache follows no known pattern.
    """
    nodes_before = len(model.graph)
    IdentityEliminationPass()(model)
    infer_shapes(model)
    source = derive_signature(model)
    if source.cache.style == "scatter" and not has_foreign_nodes(model):
        raise unsupported(
            "The model uses TensorScatter and standard operators only", "There is nothing to convert; use it as it is."
        )
    check_age(source.opset)
    StandardOperators()(model)
    raise_opset(model, OPSET)
    if source.cache.style == "concat":
        check_standard(model)
        done = to_scatter(model, capacity=capacity, numbers=numbers, progress=progress)
        return replace(done, nodes_before=nodes_before)
    notes = tuple(LayerNote(index, "TensorScatter", "unchanged") for index in range(len(source.cache.layers)))
    if source.cache.style == "shared":
        shared = SharedCache(source, capacity, progress)
        shared(model)
        notes = shared.layers
    check_standard(model)
    return finished(model, notes, nodes_before, source)
