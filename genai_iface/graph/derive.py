# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Derives the signature of a graph by pattern: no list of architectures, names only as tie-breakers."""

from __future__ import annotations

from typing import get_args

import onnx_ir as ir

from genai_iface.graph._attention import OPERATORS
from genai_iface.graph._caches import derive_cache
from genai_iface.graph._consumers import consumers, table_rows
from genai_iface.graph._roles import derive_roles
from genai_iface.graph._walk import (
    SAME_ELEMENTS,
    attribute,
    constant_shape,
    describe,
    dtype_name,
    input_at,
    is_op,
    op,
    rank,
    static_dim,
    trace_back,
    unsupported,
)
from genai_iface.graph.signature import CacheTensor, Evidence, GraphSignature, InputRole

__all__ = ["derive_signature"]

# Rows of logits are made in this size; vocabularies end far below it.
_MOST_TOKENS = 2**24
_WITH_LENGTHS = frozenset({"TensorScatter", "Attention", "com.microsoft.GroupQueryAttention"})
_TO_A_BUFFER = SAME_ELEMENTS | {"DequantizeLinear", "Expand"}


def derive_signature(model: ir.Model) -> GraphSignature:
    """Walks the graph and says what drives it.

    Args:
        model: The model; local functions must be inlined.

    Raises:
        UnsupportedModelError: Something in the graph follows no known pattern. The message names the
            input or node, what was expected, and what to do.
    """
    graph = model.graph
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if not opset:
        raise unsupported("The model imports no version of the default operator domain")
    cache = derive_cache(graph)
    logits = _find_logits(graph, {tensor.present for tensor in cache.tensors})
    vocab_size, vocab_reason = _vocab_size(logits)
    ancestors = _ancestors(logits)
    pasts = {tensor.past for tensor in cache.tensors}
    others = [value for value in graph.inputs if value.name not in pasts and not value.is_initializer()]
    roles = derive_roles(others, vocab_size, ancestors)
    _check_lengths(graph, cache.tensors, roles.inputs)
    rows = [*roles.position_rows, *_rotary_rows(graph), *_counted_rows(graph, pasts)]
    evidence = (
        *sorted(roles.evidence, key=lambda item: get_args(InputRole).index(item.role)),
        *cache.evidence,
        Evidence(str(logits.name), "logits", f"float output that is not a cache; {vocab_reason}"),
    )
    inputs = {role: roles.inputs[role] for role in get_args(InputRole) if role in roles.inputs}
    return GraphSignature(
        inputs={role: str(value.name) for role, value in inputs.items()},
        input_dtypes={role: dtype_name(value) for role, value in inputs.items()},
        logits=str(logits.name),
        logits_dtype=dtype_name(logits),
        vocab_size=vocab_size,
        cache=cache.spec,
        cache_tensors=cache.tensors,
        max_positions=min((count for count in rows if count > 0), default=None),
        opset=opset,
        evidence=evidence,
    )


def _find_logits(graph: ir.Graph, presents: set[str]) -> ir.Value:
    """The output that is not a cache, of a float type and rank 3."""
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
    return likely[0]


def _vocab_size(logits: ir.Value) -> tuple[int, str]:
    """V and where it was read."""
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


def _ancestors(value: ir.Value) -> set[ir.Node]:
    """The nodes that a value follows from."""
    found: set[ir.Node] = set()
    pending = [value]
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(source for source in node.inputs if source is not None)
            for subgraph in node.attributes.values():
                if isinstance(subgraph.value, ir.Graph):
                    pending.extend(subgraph.value.outputs)
    return found


def _check_lengths(graph: ir.Graph, tensors: tuple[CacheTensor, ...], inputs: dict[InputRole, ir.Value]) -> None:
    """A buffer with free positions needs its lengths: without them attention would read garbage."""
    presents = {tensor.present for tensor in tensors}
    buffers: dict[ir.Value | None, ir.Value | None] = {}
    for node in graph:
        if op(node) not in _WITH_LENGTHS:
            continue
        if is_op(node, "TensorScatter") and "write_indices" not in inputs and node.outputs[0].name in presents:
            raise unsupported(
                f"No graph input of rank 1 gives write_indices of the {describe(node)}; expected an int64 input (B,)"
            )
        if is_op(node, "Attention") and input_at(node, 3) is None and input_at(node, 6) is None:
            keys = input_at(node, 1)
            if keys not in buffers:
                buffers[keys] = trace_back(keys, _TO_A_BUFFER)
            buffer = buffers[keys]
            if buffer is not None and is_op(buffer.producer(), "TensorScatter"):
                raise unsupported(
                    f"The {describe(node)} reads a buffer with free positions and has neither nonpad_kv_seqlen "
                    "nor a mask, expected one of them"
                )
        if is_op(node, "com.microsoft.GroupQueryAttention") and not {"seqlens_k", "attention_mask"} & inputs.keys():
            raise unsupported(
                f"Neither seqlens_k nor an attention_mask gives the lengths of the {describe(node)}, expected one input"
            )


def _rotary_rows(graph: ir.Graph) -> list[int]:
    """Rows of the rotary tables that operators index by themselves."""
    rows = []
    for node in graph:
        name = op(node)
        operator = OPERATORS.get(name)
        table = None
        if name == "RotaryEmbedding" and input_at(node, 3) is not None:
            table = input_at(node, 1)
        elif name == "com.microsoft.RotaryEmbedding":
            table = input_at(node, 2)
        elif operator is not None and operator.cos is not None:
            table = input_at(node, operator.cos)
        shape = constant_shape(table)
        if shape is not None and len(shape) == 2:
            rows.append(shape[0])
    return rows


def _counted_rows(graph: ir.Graph, pasts: set[str]) -> list[int]:
    """Rows of the tables that positions index which the graph counts from the past's length."""
    shapes = [
        node.outputs[0]
        for value in graph.inputs
        if value.name in pasts
        for node in value.consumers()
        if is_op(node, "Shape")
    ]
    tables = (table_rows(at.node) for at in consumers(*shapes) if at.sink == "lookup")
    return [count for count in tables if count is not None]
