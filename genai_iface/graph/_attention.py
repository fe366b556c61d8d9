# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in a graph: its operators, its decomposed form, and what reaches it as keys or values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import onnx_ir as ir

from genai_iface.graph._walk import SAME_ELEMENTS, input_at, is_constant, is_op, op

__all__ = ["OPERATORS", "AttentionOperator", "AttentionUse", "Kind", "Users", "attention_uses", "reaches_softmax"]

Kind: TypeAlias = Literal["key", "value"]

# repeat_kv, changes of layout, the scales of int8 caches and one more key for a sink, on the way from a cache to the
# attention that reads it.
_ON_THE_WAY = SAME_ELEMENTS | {"DequantizeLinear", "Expand", "Pad", "RotaryEmbedding"}
# What stands between the product of queries and keys and the Softmax: scale, softcap, mask.
_SCORES = SAME_ELEMENTS | {"Mul", "Div", "Add", "Sub", "Where", "Tanh", "Min", "Max", "Clip", "Concat", "Slice"}
# What stands between the Softmax and the product with the values.
_WEIGHTS = SAME_ELEMENTS | {"Where", "Mul", "Slice", "Dropout"}
# FusedMatMul is what ONNX Runtime's optimizer makes of a MatMul with a scale or a Transpose beside it.
_PRODUCTS = ("MatMul", "Einsum", "com.microsoft.FusedMatMul")
_LIMIT = 64
# Users that a walk from one node looks at: one may start at every node of a graph.
_STEPS = 256


@dataclass(frozen=True, slots=True)
class AttentionOperator:
    """Where an attention operator takes and gives what; None where it has no such input.

    Attributes:
        key, value: Inputs for keys and values.
        past: Inputs for the past of keys and values.
        present: Outputs for their present.
        masks: Inputs that hide keys.
        nonpad, seqlens, total: Inputs for lengths.
        cos: Input for the rotary table.
        positions: Input for positions.
        heads: Attribute with the number of key/value heads.
    """

    key: int = 1
    value: int = 2
    past: tuple[int, int] = (4, 5)
    present: tuple[int, int] = (1, 2)
    masks: tuple[int, ...] = (3,)
    nonpad: int | None = None
    seqlens: int | None = None
    total: int | None = None
    cos: int | None = None
    positions: int | None = None
    heads: str = "kv_num_heads"


OPERATORS: Mapping[str, AttentionOperator] = MappingProxyType(
    {
        "Attention": AttentionOperator(nonpad=6),
        "com.microsoft.MultiHeadAttention": AttentionOperator(past=(6, 7), masks=(4, 5), heads="num_heads"),
        "com.microsoft.GroupQueryAttention": AttentionOperator(
            past=(3, 4), masks=(10,), seqlens=5, total=6, cos=7, positions=9
        ),
    }
)
"""The attention operators by name."""


@dataclass(frozen=True, slots=True)
class Users:
    """What walks through one graph share, while it does not change.

    Attributes:
        of: The first users of a value.
        without_softmax: Nodes from which no Softmax was found.
    """

    of: dict[ir.Value, tuple[ir.Node, ...]] = field(default_factory=dict)
    without_softmax: set[ir.Node] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class AttentionUse:
    """One place where attention reads a tensor.

    Attributes:
        kind: As keys or as values.
        anchor: The attention operator, or the Softmax of decomposed attention.
        reader: The node that reads: the operator, or a MatMul.
        path: The nodes in between.
    """

    kind: Kind
    anchor: ir.Node
    reader: ir.Node
    path: tuple[ir.Node, ...]


def attention_uses(value: ir.Value, users: Users | None = None) -> list[AttentionUse]:
    """Every attention that reads a cache tensor, perhaps repeated, transposed, cast or scaled.

    Args:
        value: The tensor.
        users: What earlier calls on the same graph found, to share; the graph must not have changed.
    """
    users = Users() if users is None else users
    found: list[AttentionUse] = []
    pending: list[tuple[ir.Value, tuple[ir.Node, ...]]] = [(value, ())]
    seen = {id(value)}
    # The list grows while it is walked.
    for current, path in pending:
        for node, index in current.uses():
            operator = OPERATORS.get(op(node))
            if operator is not None:
                if index in (operator.key, operator.value):
                    kind: Kind = "key" if index == operator.key else "value"
                    found.append(AttentionUse(kind, node, node, path))
            elif is_op(node, *_PRODUCTS):
                found.extend(_matmul_use(node, index, path, users))
            elif _passes(node, index) and len(path) < _LIMIT:
                for output in node.outputs:
                    if id(output) not in seen:
                        seen.add(id(output))
                        pending.append((output, (*path, node)))
    return found


def _passes(node: ir.Node, index: int) -> bool:
    """Whether a key or value goes through the node unchanged but for its layout and a constant factor."""
    if is_op(node, *_ON_THE_WAY):
        return index == 0
    return is_op(node, "Mul", "Div") and is_constant(input_at(node, 1 - index))


def _matmul_use(node: ir.Node, index: int, path: tuple[ir.Node, ...], users: Users) -> list[AttentionUse]:
    """Keys are multiplied before the Softmax, values after it."""
    other = input_at(node, 1 - index) if len(node.inputs) == 2 else None
    if other is None:
        return []
    softmax = _softmax_before(other)
    if softmax is not None:
        return [AttentionUse("value", softmax, node, path)]
    after = reaches_softmax(node, users)
    return [AttentionUse("key", after, node, path)] if after is not None else []


def reaches_softmax(node: ir.Node, users: Users | None = None) -> ir.Node | None:
    """The Softmax that the node's output goes into as scores, if there is one.

    Args:
        node: The node.
        users: As for ``attention_uses``.
    """
    users = Users() if users is None else users
    pending, seen, left = [node], {node}, _STEPS
    for current in pending:
        for output in current.outputs:
            if output not in users.of:
                # Listing the users of a value costs by their number, for each node that leads to it.
                users.of[output] = tuple(output.consumers()[:_STEPS])
            for user in users.of[output] if len(seen) < _LIMIT else ():
                left -= 1
                if left == 0:
                    users.without_softmax.update(seen)
                    return None
                if is_op(user, "Softmax"):
                    return user
                if is_op(user, *_SCORES) and user not in seen and user not in users.without_softmax:
                    seen.add(user)
                    pending.append(user)
    users.without_softmax.update(seen)
    return None


def _softmax_before(value: ir.Value) -> ir.Node | None:
    """The Softmax that the value comes from, if there is one."""
    pending, seen = [value], set[ir.Node]()
    while pending and len(seen) < _LIMIT:
        node = pending.pop(0).producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if is_op(node, "Softmax"):
            return node
        if is_op(node, *_WEIGHTS):
            pending.extend(source for source in node.inputs[:_LIMIT] if source is not None)
    return None
