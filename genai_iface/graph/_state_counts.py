# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How a graph keeps padding out of its states, and the input that tells it where padding begins.

A convolution's state is gathered at each row's own end. A recurrence passes over a token whose update is nothing:
no decay, and no key, value or rate, depending on its rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._consumers import consumers
from genai_iface.graph._edit import constant_array
from genai_iface.graph._walk import SAME_ELEMENTS, attribute, describe, dtype_name, input_at, is_op, rank, trace_back

__all__ = ["CountsFound", "counts_of_convolution", "counts_of_recurrence"]

_NAMES = {1: "key", 2: "value", 4: "decay", 5: "beta"}
# What has to be nothing for a token to leave the state alone: one input of each group.
_GROUPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "linear": ((1, 2),),
    "gated": ((4,), (1, 2)),
    "delta": ((5, 1),),
    "gated_delta": ((4,), (5, 1)),
}
_THROUGH = SAME_ELEMENTS | {"Expand"}
_MOST_STEPS = 64
_OTHER_LENGTHS = frozenset({"write", "nonpad", "seqlens", "total"})


@dataclass(frozen=True, slots=True)
class CountsFound:
    """Inputs that say which tokens are real.

    Attributes:
        inputs: The graph inputs that may be it, if padding leaves the state alone; else none.
        seen: Those that hide padding from a part of what goes into the state; ``inputs`` among them.
        reason: How the graph uses it.
    """

    inputs: tuple[ir.Value, ...] = ()
    seen: tuple[ir.Value, ...] = ()
    reason: str = ""


def counts_of_convolution(gather: ir.Node) -> CountsFound:
    """From the Gather that takes each row's last inputs."""
    index = input_at(gather, 1)
    inputs = () if index is None else _lengths_behind(index)
    return CountsFound(inputs, inputs, f"says where the {describe(gather)} finds the end of each row's inputs")


def counts_of_recurrence(node: ir.Node) -> CountsFound:
    """From the masks of a LinearAttention's inputs; none unless they cover all that its rule needs."""
    groups = _GROUPS.get(attribute(node, "update_rule", "gated_delta"))
    if groups is None:
        return CountsFound()
    common: list[ir.Value] | None = None
    seen: list[ir.Value] = []
    named = []
    for group in groups:
        masked = {at: inputs for at in group if (inputs := _masking(input_at(node, at)))}
        named += [_NAMES[at] for at in masked]
        hidden = [value for found in masked.values() for value in found]
        seen += hidden
        common = hidden if common is None else [value for value in common if value in hidden]
    reason = f"masks {' and '.join(named)} of the {describe(node)}"
    return CountsFound(tuple(dict.fromkeys(common or ())), tuple(dict.fromkeys(seen)), reason)


def _masking(value: ir.Value | None) -> tuple[ir.Value, ...]:
    """The inputs behind the condition of Where(condition, value, 0)."""
    source = trace_back(value, _THROUGH)
    node = None if source is None else source.producer()
    if node is None or not is_op(node, "Where"):
        return ()
    zero: NDArray[Any] | None = constant_array(input_at(node, 2))
    if zero is None or zero.astype("float32").any():
        return ()
    condition = input_at(node, 0)
    return () if condition is None else _lengths_behind(condition)


def _lengths_behind(value: ir.Value) -> tuple[ir.Value, ...]:
    """The inputs (B,) of integers that a small computation follows from, and that are no other lengths."""
    pending, found = [value], []
    seen = {value}
    for current in pending:
        if len(seen) > _MOST_STEPS:
            return ()
        node = current.producer()
        if node is None:
            if current.is_graph_input() and not current.is_initializer():
                found.append(current)
        elif not is_op(node, "Shape"):
            fresh = [each for each in node.inputs if each is not None and each not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    return tuple(each for each in found if _may_be_counts(each))


def _may_be_counts(value: ir.Value) -> bool:
    if dtype_name(value) != "int64" or rank(value) not in (1, None):
        return False
    return not any(at.sink in _OTHER_LENGTHS for at in consumers(value))
