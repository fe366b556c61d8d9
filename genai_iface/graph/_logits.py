# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the output that holds logits, its width, and whether it comes from a product with a vocabulary."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from genai_iface.graph._walk import (
    LONGEST_PATH,
    SAME_ELEMENTS,
    attribute,
    constant_shape,
    describe,
    dtype_name,
    input_at,
    is_constant,
    is_op,
    rank,
    static_dim,
    trace_back,
    unsupported,
)

__all__ = ["check_vocabulary", "find_logits", "vocab_size_of"]

# Rows of logits are made in this size; vocabularies end far below it.
_MOST_TOKENS = 2**24
_PRODUCTS = (
    *("MatMul", "Gemm", "Einsum", "MatMulInteger", "QLinearMatMul", "Conv"),
    *("com.microsoft.MatMulNBits", "com.microsoft.FusedMatMul", "com.microsoft.MatMulIntegerToFloat"),
    *("com.microsoft.DynamicQuantizeMatMul", "com.microsoft.MatMulBnb4", "com.microsoft.MatMulFpQ4"),
    *("com.microsoft.GemmFloat8", "com.microsoft.QGemm", "com.microsoft.FusedGemm"),
)
_NORMS = (
    *("RMSNormalization", "LayerNormalization", "SimplifiedLayerNormalization", "com.microsoft.SkipLayerNormalization"),
    *("com.microsoft.SkipSimplifiedLayerNormalization", "com.microsoft.SimplifiedLayerNormalization"),
    *("com.microsoft.LayerNormalization", "LpNormalization", "GroupNormalization", "InstanceNormalization"),
)
# What may follow the product with the vocabulary, and change no column into another.
_AFTER = SAME_ELEMENTS | {"Slice", "Tanh", "Clip", "Neg", "LogSoftmax", "Softmax"}
_WITH_SCALE = ("Mul", "Div", "Sub", "Add", "Min", "Max")
_HEADLESS = "Export the model with its language-model head (for ONNX Runtime GenAI's builder: without exclude_lm_head)."
# A vocabulary of logits may lack tokens that are only read, but not most of them.
_FEWEST_COLUMNS = 1 / 4


def find_logits(graph: ir.Graph, presents: Collection[str]) -> ir.Value:
    """The output that is not a cache, of a float type and rank 3, and that comes from a product.

    Args:
        graph: The graph.
        presents: Names of the outputs that are caches.

    Raises:
        UnsupportedModelError: There is none, more than one, or it holds hidden states.
    """
    others = [value for value in graph.outputs if value.name not in presents]
    likely = [value for value in others if "float" in dtype_name(value) and rank(value) in (3, None)]
    if len(likely) > 1:
        likely = [value for value in likely if value.name == "logits"] or likely
    if len(likely) != 1:
        few = [f"{value.name!r} ({dtype_name(value)}, rank {rank(value)})" for value in others[:20]]
        names = ", ".join(few) or "none"
        raise unsupported(
            f"{len(likely)} outputs could be the logits, expected one float output of rank 3 (B, S, V) besides the "
            f"cache; the other outputs are: {names}",
            "Name the right one 'logits', or export the model with its language-model head.",
        )
    if likely[0].producer() is None:
        raise unsupported(f"No node computes the output {likely[0].name!r}, expected logits there")
    reason = _no_product(likely[0])
    if reason:
        raise unsupported(
            f"The output {likely[0].name!r} holds hidden states, not logits: it comes from {reason}, expected a "
            "product with a matrix that has a column for each token",
            _HEADLESS,
        )
    return likely[0]


def vocab_size_of(logits: ir.Value) -> tuple[int, str]:
    """V, and where it was read.

    Raises:
        UnsupportedModelError: The graph does not say it, or it is beyond any vocabulary.
    """
    size = static_dim(logits, -1)
    if size is not None and size > _MOST_TOKENS:
        raise unsupported(f"The logits {logits.name!r} have {size} columns, at most {_MOST_TOKENS} are read")
    if size is not None and size > 0:
        return size, f"its last axis has the fixed size {size}"
    # Scaling, softcap and casts may follow the product with the weight.
    around = ("Identity", "Cast", "Mul", "Div", "Add", "Tanh", "Reshape")
    node = None if (head := trace_back(logits, around)) is None else head.producer()
    if node is not None:
        shape = constant_shape(input_at(node, 1)) if is_op(node, "MatMul", "Gemm") else None
        if shape and len(shape) == 2:
            size = shape[0] if is_op(node, "Gemm") and attribute(node, "transB", 0) else shape[1]
        elif is_op(node, "com.microsoft.MatMulNBits"):
            size = attribute(node, "N", 0)
        if size and 0 < size <= _MOST_TOKENS:
            return size, f"the weight of the {describe(node)} has {size} columns"
    raise unsupported(
        f"The vocabulary's size is not in the graph: the last axis of {logits.name!r} is symbolic and no weight of a "
        "MatMul leads to it",
        "Export the model with a fixed last axis of the logits.",
    )


def check_vocabulary(logits: ir.Value, vocab_size: int, rows: int | None, width: int | None) -> None:
    """Compares the columns of the logits with the token table.

    Args:
        logits: The output.
        vocab_size: Its columns.
        rows: Of the table that the token ids select from, None if it is not known.
        width: Of that table.

    Raises:
        UnsupportedModelError: The output has the width of hidden states, or of a few scores.
    """
    if rows is None or vocab_size == rows:
        return
    if vocab_size == width:
        what = f"as many as the token table of {rows} rows is wide: it holds hidden states, or their projection"
    elif vocab_size < rows * _FEWEST_COLUMNS:
        what = f"and the token table has {rows} rows: it holds scores, not a number for each token"
    else:
        return
    raise unsupported(f"The output {logits.name!r} has {vocab_size} columns, {what}", _HEADLESS)


def _no_product(logits: ir.Value) -> str:
    """What the output comes from if that is certainly no product; empty if it is one, or not known."""
    value = logits
    for _ in range(LONGEST_PATH):
        node = value.producer()
        if node is None or is_op(node, *_PRODUCTS):
            return ""
        if is_op(node, *_NORMS):
            return f"the {describe(node)}, a normalization"
        first = input_at(node, 0)
        if is_op(node, "Gather") and first is not None and is_constant(first):
            return f"the {describe(node)}, rows of a table"
        if is_op(node, *_WITH_SCALE):
            branches = [part for part in node.inputs if part is not None and not is_constant(part)]
            if len(branches) == 2 and not any(part.is_graph_input() for part in branches):
                return _of_branches(node, branches)
            first = branches[0] if branches else None
        elif not (node.op_type in _AFTER or is_op(node, "Gather", "GatherND")):
            return ""
        if first is None:
            return ""
        value = first
    return ""


def _of_branches(node: ir.Node, branches: list[ir.Value]) -> str:
    """Two values that are joined: two products (a head and its adapter), or a scale; else a residual or a norm."""
    ends = [_end(part) for part in branches]
    if is_op(node, "Add", "Sub"):
        return "" if all(is_op(end, *_PRODUCTS) for end in ends) else f"the {describe(node)}, a residual connection"
    if any(is_op(end, *_PRODUCTS) for end in ends):
        return ""
    if any(is_op(end, "Reciprocal", "Sqrt", "Pow") for end in ends):
        return f"the {describe(node)}, a normalization"
    return ""


def _end(value: ir.Value) -> ir.Node | None:
    """The first node behind a value that may not follow a product."""
    for _ in range(LONGEST_PATH):
        node = value.producer()
        if node is None or not (node.op_type in _AFTER or is_op(node, *_WITH_SCALE)):
            return node
        branches = [part for part in node.inputs if part is not None and not is_constant(part)]
        if (is_op(node, *_WITH_SCALE) and len(branches) != 1) or not branches:
            return node
        value = branches[0]
    return None
