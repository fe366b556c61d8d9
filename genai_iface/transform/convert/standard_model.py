# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Contrib operators and any cache -> the standard operators of opset 24 alone, the cache in TensorScatter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import unsupported
from genai_iface.graph.derive import derive_signature
from genai_iface.transform._raise_opset import check_age, raise_opset
from genai_iface.transform.contrib.operators import OPSET, StandardOperators, check_standard, has_foreign_nodes
from genai_iface.transform.convert._cache_surgery import Converted, LayerNote, finished
from genai_iface.transform.convert._replace_shared import replace_shared_cache
from genai_iface.transform.convert.scatter_cache import to_scatter

__all__ = ["to_standard"]


def to_standard(
    model: ir.Model,
    *,
    capacity: int | None = None,
    numbers: Iterable[int] = (),
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Rewrites a decoder for the standard operators of opset 24 alone, its cache for TensorScatter.

    Quantized weights keep their integers: packed ones become blocked DequantizeLinear with the same numbers.

    Args:
        model: The model, local functions inlined. It is changed in place.
        capacity: Positions of the cache, None to leave them symbolic.
        numbers: Integers of config.json among which a sliding window may be.
        limit: Positions that config.json gives the model; no probe goes beyond them.
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
        done = to_scatter(model, capacity=capacity, numbers=numbers, limit=limit, progress=progress)
        return replace(done, nodes_before=nodes_before)
    notes = tuple(LayerNote(index, "TensorScatter", "unchanged") for index in range(len(source.cache.layers)))
    if source.cache.style == "shared":
        notes = replace_shared_cache(model, source, capacity, progress)
    check_standard(model)
    return finished(model, notes, nodes_before, source)
