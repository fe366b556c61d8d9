# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""MultiHeadAttention -> Attention, its padding mask and bias as one mask."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._walk import dim, output_at
from genai_iface.transform.contrib.site import Site

__all__ = ["multi_head_attention"]


def multi_head_attention(site: Site) -> None:
    """(query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value)."""
    if site.input(8) is not None or site.input(9) is not None:
        raise site.refuse("shares one buffer for past and present (past_sequence_length, cache_indirection)")
    site.no_output(3, what="its scores")
    heads = site.integer("num_heads")
    query, key, value, is_flat = _projections(site, heads)
    past_key, past_value = site.input(6), site.input(7)
    mask = _mask(site, key, past_key, is_flat=is_flat)
    attributes: dict[str, int | float] = {}
    if is_flat:
        attributes |= {"q_num_heads": heads, "kv_num_heads": heads}
    if site.integer("unidirectional"):
        attributes["is_causal"] = 1
    if site.real("scale"):
        attributes["scale"] = site.real("scale")
    outputs = 3 if output_at(site.node, 1) is not None or output_at(site.node, 2) is not None else 1
    results = site.several("Attention", outputs, query, key, value, mask, past_key, past_value, **attributes)
    mixed = results[0]
    if not is_flat:
        mixed = _flat(site, mixed)
    mixed.shape = None
    site.give(mixed)
    if mixed.shape is None:
        mixed.shape = ir.Shape([None, None, None])
    for index, present in enumerate(results[1:], start=1):
        if output_at(site.node, index) is not None:
            present.shape = None
            site.give(present, index)


def _projections(site: Site, heads: int) -> tuple[ir.Value, ir.Value, ir.Value, bool]:
    """Queries, keys and values with their biases, and whether they have rank 3."""
    query, key, value = site.required(0), site.input(1), site.input(2)
    axes = site.rank(query)
    if axes == 5:
        parts = [_joined(site, part) for part in site.several("Split", 3, query, axis=3, num_outputs=3)]
        query, key, value = parts
    elif key is not None and site.rank(key) == 5:
        key, value = (_joined(site, part) for part in site.several("Split", 2, key, axis=3, num_outputs=2))
    if key is None or value is None:
        raise site.refuse("has no keys or values")
    bias = site.input(3)
    if site.rank(key) == 4:
        # Keys and values of another sequence, heads apart already; only queries have a bias then.
        if bias is not None:
            raise site.refuse("adds a bias to keys that have their heads apart")
        return _apart(site, query, heads), key, value, False
    if bias is not None:
        query, key, value = _biased(site, bias, (query, key, value))
    return query, key, value, True


def _biased(site: Site, bias: ir.Value, parts: tuple[ir.Value, ir.Value, ir.Value]) -> tuple[ir.Value, ...]:
    """One vector holds the biases of all three."""
    widths = [site.last(part) for part in parts]
    total = site.last(bias)
    if widths[0] is None or widths[1] is None or total is None:
        raise site.refuse("does not say the widths of its input, by which its bias is split")
    sizes = site.ints(widths[0], widths[1], total - widths[0] - widths[1])
    return tuple(
        site.add("Add", part, piece)
        for part, piece in zip(parts, site.several("Split", 3, bias, sizes, axis=0), strict=True)
    )


def _mask(site: Site, key: ir.Value, past: ir.Value | None, *, is_flat: bool) -> ir.Value | None:
    """What is added to the scores: mask_filter_value where a key is padding, and attention_bias."""
    query, padding, bias = site.required(0), site.input(4), site.input(5)
    if padding is None:
        return bias
    axes = site.rank(padding)
    if axes == 1:
        if dim(padding, 0) == "?" or dim(padding, 0) != dim(query, 0):
            raise site.refuse("has a key_padding_mask of rank 1 that is not known to hold one length for each row")
        total = site.length(key, 1 if is_flat else 2)
        if past is not None:
            total = site.add("Add", total, site.length(past, 2))
        every = site.add("Range", site.index(0), site.add("Squeeze", total), site.index(1))
        lengths = site.add("Cast", site.add("Unsqueeze", padding, site.ints(1)), to=int(ir.DataType.INT64))
        hidden = site.add("GreaterOrEqual", every, lengths)
    else:
        hidden = site.add("Equal", padding, site.edit.weight("zero", _zero(padding)))
    hidden = site.add("Unsqueeze", hidden, site.ints(1) if axes == 3 else site.ints(1, 2))
    # ONNX Runtime's Attention wants a row of the mask for each query.
    ones = site.ints(1, 1)
    hidden = site.add("Expand", hidden, site.add("Concat", ones, site.length(query, 1), site.ints(1), axis=0))
    filtered = site.real("mask_filter_value", -10000.0)
    mask = site.add("Where", hidden, site.scalar(filtered, query), site.scalar(0.0, query))
    return mask if bias is None else site.add("Add", mask, bias)


def _zero(like: ir.Value) -> ir.TensorProtocol:
    dtype = like.dtype if like.dtype is not None else ir.DataType.INT32
    return ir.tensor(0, dtype=dtype)


def _joined(site: Site, part: ir.Value) -> ir.Value:
    """(B, S, H, 1, D) as (B, S, H * D)."""
    return site.add("Reshape", part, site.ints(0, 0, -1))


def _apart(site: Site, flat: ir.Value, heads: int) -> ir.Value:
    """(B, S, H * D) as (B, H, S, D)."""
    return site.add("Transpose", site.add("Reshape", flat, site.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _flat(site: Site, apart: ir.Value) -> ir.Value:
    """(B, H, S, D) as (B, S, H * D)."""
    return site.add("Reshape", site.add("Transpose", apart, perm=[0, 2, 1, 3]), site.ints(0, 0, -1))
