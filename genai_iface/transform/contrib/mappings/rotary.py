# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Contrib RotaryEmbedding -> RotaryEmbedding of opset 23."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._walk import static_dim
from genai_iface.transform.contrib.site import Site

__all__ = ["rotary_embedding", "rotated"]


def rotary_embedding(site: Site) -> None:
    """(X, position_ids, cos_cache, sin_cache); X of rank 3 or 4."""
    if site.integer("is_packed_batching"):
        raise site.refuse("takes rows of unequal length packed together (is_packed_batching)")
    x, positions, cos, sin = (site.required(index) for index in range(4))
    if site.rank(positions) != 2:
        positions = _counted(site, x, positions)
    size = site.integer("rotary_embedding_dim")
    heads = site.integer("num_heads")
    columns = static_dim(cos, -1)
    if columns is None:
        raise site.refuse(f"reads {cos.name!r}, whose number of columns is not in the graph")
    whole = site.rank(x) == 4
    if not whole and not heads:
        # Without partial rotation, tables are half a head wide.
        wide = site.last(x)
        if size or wide is None or wide % (2 * columns):
            raise site.refuse("says neither its number of heads nor the width of its input")
        heads = wide // (2 * columns)
    site.give(
        rotated(
            site,
            x,
            cos,
            sin,
            positions,
            heads=0 if whole else heads,
            partial=size,
            interleaved=site.integer("interleaved"),
        )
    )


def rotated(
    site: Site,
    x: ir.Value,
    cos: ir.Value,
    sin: ir.Value,
    positions: ir.Value,
    *,
    heads: int,
    partial: int,
    interleaved: int,
) -> ir.Value:
    """A rotation of (B, S, heads * D), or of (B, H, S, D) with heads=0."""
    attributes: dict[str, int] = {}
    if heads:
        attributes["num_heads"] = heads
    if partial:
        attributes["rotary_embedding_dim"] = partial
    if interleaved:
        attributes["interleaved"] = interleaved
    index = (
        positions if positions.dtype == ir.DataType.INT64 else site.add("Cast", positions, to=int(ir.DataType.INT64))
    )
    turned = site.add("RotaryEmbedding", x, cos, sin, index, **attributes)
    turned.shape = x.shape
    return turned


def _counted(site: Site, x: ir.Value, first: ir.Value) -> ir.Value:
    """int64 (B, S): the position of the first token, the same in all rows, and on."""
    begin = site.add("Squeeze", site.add("Cast", first, to=int(ir.DataType.INT64)))
    tokens = 2 if site.rank(x) == 4 else 1
    width = site.add("Squeeze", site.length(x, tokens))
    steps = site.add("Range", begin, site.add("Add", begin, width), site.index(1))
    sizes = site.add("Concat", site.length(x, 0), site.length(x, tokens), axis=0)
    return site.add("Expand", steps, sizes)
