# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finds what a graph keeps besides keys and values: the states of convolutions and recurrences.

Operators say it themselves: a state is their input 3 and their output 1. Graphs that spell the operators out are
read where an edge shows a shift register, or, as published exports have it, by the names of the two ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import onnx_ir as ir

from genai_iface.graph._state_counts import CountsFound, counts_of_convolution, counts_of_recurrence
from genai_iface.graph._walk import (
    attribute,
    describe,
    dtype_name,
    graph_input,
    graph_output,
    input_at,
    is_op,
    listed,
    op,
    output_at,
    rank,
    static_dim,
    trace_back,
    unsupported,
)
from genai_iface.graph.signature import Evidence, StateTensor
from genai_iface.types import DType, StateKind, StateSpec

__all__ = ["STATE_OPERATORS", "DerivedStates", "derive_states"]

STATE_OPERATORS: dict[str, StateKind] = {
    "CausalConvWithState": "conv",
    "LinearAttention": "recurrent",
    "com.microsoft.CausalConvWithState": "conv",
    "com.microsoft.LinearAttention": "recurrent",
}
"""The operators that keep states; past_state is input 3 and present_state output 1 of each."""

_PAST, _PRESENT = 3, 1
_FLOATS = ("float32", "float16", "bfloat16")
_LARGEST = 2**31 - 1
# Attributes of the contrib operators that give a state another meaning.
_OTHER_STATES = ("state_window", "state_update_capacity")
# How far a recurrence is from the convolution before it: splits, normalizations, repeated heads, masks.
_NEARBY = 400
# Between a convolution and its recurrence there is at least one way without any; between two layers there is none.
_PROJECTIONS = frozenset({"MatMul", "Gemm", "MatMulInteger", "com.microsoft.MatMulNBits", "com.microsoft.FusedMatMul"})
_NAMED = re.compile(r"(?:^|[._])(conv|recurrent|ssm)(?:_state)?(?:[._]|$)")


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One state as found in the graph."""

    kind: StateKind
    past: ir.Value
    present: ir.Value
    node: ir.Node
    reason: str
    counts: CountsFound


@dataclass(frozen=True, slots=True)
class DerivedStates:
    """The states of a graph.

    Attributes:
        specs: Kind, shape, type and layer of each.
        tensors: Names of inputs and outputs, in the same order.
        counts: The graph input that says how many tokens of each row are real, or None.
        evidence: What in the graph says so, for ``inspect``.
    """

    specs: tuple[StateSpec, ...]
    tensors: tuple[StateTensor, ...]
    counts: ir.Value | None
    evidence: tuple[Evidence, ...]


def derive_states(graph: ir.Graph) -> DerivedStates:
    """Finds the states of all layers.

    Raises:
        UnsupportedModelError: An operator's state is not kept from step to step, or in a way that is not understood.
    """
    found = [_of_operator(node) for node in graph if op(node) in STATE_OPERATORS]
    found += _spelled_out(graph, {state.past for state in found})
    if not found:
        return DerivedStates((), (), None, ())
    _no_tensor_twice(found)
    order = {node: index for index, node in enumerate(graph)}
    found.sort(key=lambda state: order[state.node])
    layers = _layers(found)
    counts = _counts(found)
    specs, tensors, evidence = [], [], []
    for index, (state, layer) in enumerate(zip(found, layers, strict=True)):
        past, present = str(state.past.name), str(state.present.name)
        specs.append(StateSpec(state.kind, _shape(state), _dtype(state), layer))
        is_counted = counts is not None and counts in state.counts.inputs
        tensors.append(StateTensor(index, past, present, is_counted))
        evidence.append(Evidence(past, f"past {state.kind} state {index}, layer {layer}", state.reason))
        padding = "padding leaves it alone" if is_counted else "padding would go into it, so rows are never padded"
        evidence.append(Evidence(present, f"present {state.kind} state {index}, layer {layer}", padding))
    if counts is not None:
        why = next(state.counts.reason for state in found if counts in state.counts.seen)
        evidence.append(Evidence(str(counts.name), "counts", why))
    return DerivedStates(tuple(specs), tuple(tensors), counts, tuple(evidence))


def _of_operator(node: ir.Node) -> _Found:
    """The state of an operator that says what it is."""
    kind = STATE_OPERATORS[op(node)]
    other = next((name for name in _OTHER_STATES if attribute(node, name, 0)), None)
    if other is not None:
        raise unsupported(f"The {describe(node)} has {other}, which keeps another kind of state; expected none")
    past = graph_input(input_at(node, _PAST))
    if past is None:
        raise unsupported(
            f"past_state of the {describe(node)} is not a graph input, so every step would begin anew; expected one",
            "Export the model with its states as inputs and outputs.",
        )
    output = output_at(node, _PRESENT)
    present = None if output is None else graph_output(output)
    if present is not None:
        counts = counts_of_recurrence(node) if kind == "recurrent" else CountsFound()
        return _Found(kind, past, present, node, f"past_state of the {describe(node)}", counts)
    gathered = _gathered(past, node) if kind == "conv" else None
    if gathered is None:
        way = " nor a Gather of past_state and input joined" if kind == "conv" else ""
        raise unsupported(
            f"present_state of the {describe(node)}{way} is not a graph output, so its state would be lost",
            "Export the model with its states as inputs and outputs.",
        )
    gather, present = gathered
    reason = f"past_state of the {describe(node)}; the {describe(gather)} picks its end for each row"
    return _Found(kind, past, present, node, reason, counts_of_convolution(gather))


def _gathered(past: ir.Value, node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Gather that takes each row's last inputs from Concat(past, input), and the graph output of it."""
    for joined in _joins(past):
        same = trace_back(joined.inputs[1], ("Identity",)) is trace_back(input_at(node, 0), ("Identity",))
        for user, index in joined.outputs[0].uses() if same else ():
            if index == 0 and is_op(user, "GatherElements", "GatherND", "Gather"):
                present = graph_output(user.outputs[0])
                if present is not None:
                    return user, present
    return None


def _joins(past: ir.Value) -> Iterator[ir.Node]:
    """The nodes that put new values behind a past one."""
    for value in (past, *(node.outputs[0] for node in past.consumers() if is_op(node, "Identity"))):
        for node, index in value.uses():
            if is_op(node, "Concat") and index == 0 and len(node.inputs) == 2:
                yield node


def _spelled_out(graph: ir.Graph, known: set[ir.Value]) -> list[_Found]:
    """Graph inputs of one size per row that no operator claims and that come back as an output."""
    found = []
    outputs = {str(value.name): value for value in graph.outputs}
    for past in graph.inputs:
        if past in known or past.is_initializer() or not _is_state_like(past):
            continue
        state = _shifted(past) or _named(past, outputs)
        if state is not None:
            found.append(state)
    return found


def _is_state_like(value: ir.Value) -> bool:
    """A float tensor with a batch axis, at least two more, and no other symbolic size."""
    axes = rank(value)
    if axes is None or axes < 3 or dtype_name(value) not in _FLOATS:
        return False
    return static_dim(value, 0) is None and all(static_dim(value, axis) is not None for axis in range(1, axes))


def _shifted(past: ir.Value) -> _Found | None:
    """A convolution's inputs as a shift register: the end of Concat(past, new) comes back."""
    for joined in _joins(past):
        axis = attribute(joined, "axis", 0)
        if axis in (-1, (rank(past) or 0) - 1):
            for node, index in joined.outputs[0].uses():
                present = graph_output(node.outputs[0]) if index == 0 and is_op(node, "Slice") else None
                if present is not None and _same_type(past, present):
                    reason = f"the {describe(joined)} puts new columns behind it, the {describe(node)} keeps the last"
                    return _Found("conv", past, present, joined, reason, CountsFound())
    return None


def _named(past: ir.Value, outputs: dict[str, ir.Value]) -> _Found | None:
    """States whose operator is not in the graph, by the names that published exports give both ends."""
    name = str(past.name)
    match = _NAMED.search(name)
    if match is None or not name.startswith("past"):
        return None
    ends = (name.replace("past_key_values", "present", 1), name.replace("past", "present", 1))
    present = next((outputs[end] for end in ends if end in outputs), None)
    first = next(iter(past.consumers()), None)
    if present is None or first is None or not _same_type(past, present) or not _follows(present, past):
        return None
    kind: StateKind = "conv" if match[1] == "conv" else "recurrent"
    return _Found(kind, past, present, first, f"its name, and {present.name!r} follows from it", CountsFound())


def _same_type(past: ir.Value, present: ir.Value) -> bool:
    """Whether a present can be the next step's past; what the graph does not say is taken as equal."""
    if dtype_name(present) not in (dtype_name(past), "unknown") or rank(present) not in (rank(past), None):
        return False
    sizes = ((static_dim(past, axis), static_dim(present, axis)) for axis in range(1, rank(past) or 0))
    return all(new in (old, None) for old, new in sizes)


def _follows(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is computed from another."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if current is source:
            return True
        node = current.producer()
        fresh = [each for each in (node.inputs if node is not None else ()) if each is not None and each not in seen]
        seen.update(fresh)
        pending.extend(fresh)
    return False


def _no_tensor_twice(found: Sequence[_Found]) -> None:
    for end in ("past", "present"):
        names = [str(getattr(state, end).name) for state in found]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise unsupported(f"{double!r} is the state of two operators, expected one tensor for each")


def _shape(state: _Found) -> tuple[int, ...]:
    """The sizes of one row."""
    axes = rank(state.past) or rank(state.present) or 0
    sizes = []
    for axis in range(1, axes):
        size = static_dim(state.past, axis)
        sizes.append(static_dim(state.present, axis) if size is None else size)
    if not sizes or not all(size is not None and 0 <= size <= _LARGEST for size in sizes):
        raise unsupported(
            f"The state {state.past.name!r} has the sizes {tuple(sizes)} per row, expected numbers up to {_LARGEST}",
            "Export the model with fixed sizes for states; only the batch may be symbolic.",
        )
    return tuple(cast("list[int]", sizes))


def _dtype(state: _Found) -> DType:
    dtypes = {dtype_name(value) for value in (state.past, state.present)} - {"unknown"}
    if len(dtypes) != 1 or not dtypes <= set(_FLOATS):
        raise unsupported(
            f"The state {state.past.name!r} has the element type {' and '.join(sorted(dtypes)) or 'unknown'}, "
            f"expected one of {', '.join(_FLOATS)} at both ends"
        )
    return cast(DType, dtypes.pop())


def _layers(found: Sequence[_Found]) -> list[int]:
    """Numbers the layers; a recurrence and the convolutions that feed it are one."""
    convolutions = {state.node: index for index, state in enumerate(found) if state.kind == "conv"}
    owner = list(range(len(found)))
    for index, state in enumerate(found):
        if state.kind == "recurrent":
            for node in _feeding(state.node, convolutions):
                owner[convolutions[node]] = index
    numbers: dict[int, int] = {}
    return [numbers.setdefault(each, len(numbers)) for each in owner]


def _feeding(node: ir.Node, wanted: dict[ir.Node, int]) -> Iterator[ir.Node]:
    """The wanted nodes that a node follows from within its layer; projections and other states end the walk."""
    pending = [value for value in node.inputs[:_PAST] if value is not None]
    seen = set(pending)
    for value in pending:
        producer = value.producer()
        if producer is None or len(seen) > _NEARBY:
            continue
        if producer in wanted:
            yield producer
        elif op(producer) not in STATE_OPERATORS and op(producer) not in _PROJECTIONS:
            fresh = [each for each in producer.inputs if each is not None and each not in seen]
            seen.update(fresh)
            pending.extend(fresh)


def _counts(found: Sequence[_Found]) -> ir.Value | None:
    """The one input that says where padding begins."""
    inputs = list(dict.fromkeys(value for state in found for value in state.counts.seen))
    if len(inputs) > 1:
        inputs = [value for value in inputs if value.name == "counts"] or inputs
    if len(inputs) > 1:
        raise unsupported(f"The inputs {listed(inputs)} all say where the padding of a state begins, expected one")
    return next(iter(inputs), None)
