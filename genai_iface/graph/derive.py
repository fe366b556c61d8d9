# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Derives the signature of a graph by pattern: no list of architectures, names only as tie-breakers."""

from __future__ import annotations

from typing import get_args

import onnx_ir as ir

from genai_iface.graph._attention import OPERATORS
from genai_iface.graph._caches import derive_cache
from genai_iface.graph._consumers import consumers, table_rows
from genai_iface.graph._logits import check_vocabulary, find_logits, vocab_size_of
from genai_iface.graph._roles import derive_roles
from genai_iface.graph._states import derive_states
from genai_iface.graph._walk import (
    SAME_ELEMENTS,
    attribute,
    constant_shape,
    describe,
    dtype_name,
    input_at,
    is_op,
    op,
    static_dim,
    trace_back,
    unsupported,
)
from genai_iface.graph.signature import CacheTensor, Evidence, GraphSignature, InputRole, StateTensor

__all__ = ["derive_signature"]

_WITH_LENGTHS = frozenset({"TensorScatter", "Attention", "com.microsoft.GroupQueryAttention"})
_AXES = ("rows", "tokens")
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
    states = derive_states(graph)
    cache = derive_cache(graph, states.specs)
    tensors: tuple[CacheTensor | StateTensor, ...] = (*cache.tensors, *states.tensors)
    logits = find_logits(graph, {tensor.present for tensor in tensors})
    vocab_size, vocab_reason = vocab_size_of(logits)
    ancestors = _ancestors(logits)
    known = {tensor.past for tensor in tensors} | ({str(states.counts.name)} if states.counts is not None else set())
    others = [value for value in graph.inputs if value.name not in known and not value.is_initializer()]
    roles = derive_roles(others, vocab_size, ancestors)
    if states.counts is not None:
        roles.inputs["counts"] = states.counts
    pasts = {tensor.past for tensor in cache.tensors}
    check_vocabulary(logits, vocab_size, *_token_table(roles.inputs["input_ids"]))
    _check_lengths(graph, cache.tensors, roles.inputs)
    rows = [*roles.position_rows, *_rotary_rows(graph), *_counted_rows(graph, pasts)]
    evidence = (
        *sorted(roles.evidence, key=lambda item: get_args(InputRole).index(item.role)),
        *cache.evidence,
        *states.evidence,
        Evidence(str(logits.name), "logits", f"float output that is not a cache; {vocab_reason}"),
    )
    inputs = {role: roles.inputs[role] for role in get_args(InputRole) if role in roles.inputs}
    one_row, one_token = (_is_fixed_to_one(inputs["input_ids"], axis, what) for axis, what in enumerate(_AXES))
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
        state_tensors=states.tensors,
        one_token=one_token,
        one_row=one_row,
    )


def _is_fixed_to_one(ids: ir.Value, axis: int, what: str) -> bool:
    """Whether the graph takes one row, or one token, at a time; another fixed number is one that no loop can keep."""
    size = static_dim(ids, axis)
    if size is not None and size > 1:
        raise unsupported(
            f"The graph takes steps of {size} {what} and no other number: {ids.name!r} is {ids.shape}, expected (B, S)",
            "Export it with dynamic axes for batch and sequence.",
        )
    return size == 1


def _token_table(ids: ir.Value) -> tuple[int | None, int | None]:
    """Rows and width of the table that the token ids select from, None where the graph does not say."""
    for at in consumers(ids):
        if at.sink == "lookup" and at.rows is not None and is_op(at.node, "Gather"):
            shape = constant_shape(input_at(at.node, 0))
            if shape is not None and len(shape) == 2:
                return at.rows, shape[1 - attribute(at.node, "axis", 0) % 2]
    return None, None


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
