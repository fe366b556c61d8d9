# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the cache of a graph: which inputs and outputs are keys and values, of which layer, how kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast, get_args

import onnx_ir as ir

from genai_iface.graph._attention import OPERATORS, AttentionUse, Kind, Users, attention_uses
from genai_iface.graph._shapes import FoundCache, layer_spec
from genai_iface.graph._walk import (
    attribute,
    describe,
    dtype_name,
    graph_input,
    graph_output,
    input_at,
    listed,
    op,
    output_at,
    rank,
    unsupported,
)
from genai_iface.graph.signature import CacheTensor, Evidence
from genai_iface.types import CacheLayout, CacheMode, CacheSpec, CacheStyle, StateSpec

__all__ = ["DerivedCache", "derive_cache"]

_CONTRIB_SHARED = "com.microsoft.GroupQueryAttention"
_KNOWN = (
    "TensorScatter into Attention, Attention with past_key and past_value, Concat of a past input and new keys "
    "before attention, or GroupQueryAttention with past_key and past_value"
)


@dataclass(frozen=True, slots=True)
class DerivedCache:
    """The cache of a graph.

    Attributes:
        spec: Style, layout, layers.
        tensors: Names of inputs and outputs, two per layer, the key first.
        evidence: What in the graph says so, for ``inspect``.
    """

    spec: CacheSpec
    tensors: tuple[CacheTensor, ...]
    evidence: tuple[Evidence, ...]


def derive_cache(graph: ir.Graph, states: tuple[StateSpec, ...] = ()) -> DerivedCache:
    """Finds keys and values of all layers.

    Args:
        graph: The graph.
        states: What it keeps besides them; a graph that has some may have no attention at all.

    Raises:
        UnsupportedModelError: No cache follows a known pattern, or one does only in part.
    """
    order = {node: index for index, node in enumerate(graph)}
    found = _tensors(graph)
    if not found and states:
        return DerivedCache(CacheSpec("scatter", "bnsh", (), states), (), ())
    if not found:
        raise unsupported(
            f"The graph does not keep a cache in a known way (looked for {_KNOWN}); "
            f"its inputs are {listed(graph.inputs)}"
        )
    _no_tensor_twice(found)
    layers = _pair(found, order)
    styles = {tensor.style for tensor in found}
    if len(styles) > 1:
        raise unsupported(f"The layers mix the cache styles {', '.join(sorted(styles))}; expected one style")
    layouts = {_layout(tensor) for tensor in found}
    if len(layouts) > 1:
        raise unsupported("Some cache tensors have rank 3 and some rank 4; expected one layout for all layers")
    layout = layouts.pop()
    specs = tuple(layer_spec(index, key, value, layout) for index, (key, value) in enumerate(layers))
    tensors, evidence = [], []
    for index, pair in enumerate(layers):
        for tensor in pair:
            past, present = str(tensor.past.name), str(tensor.present.name)
            tensors.append(CacheTensor(layer=index, kind=tensor.kind, past=past, present=present))
            evidence.append(Evidence(past, f"past {tensor.kind} of layer {index}", tensor.reason))
            evidence.append(Evidence(present, f"present {tensor.kind} of layer {index}", "the output of that node"))
    return DerivedCache(CacheSpec(styles.pop(), layout, specs, states), tuple(tensors), tuple(evidence))


def _tensors(graph: ir.Graph) -> list[FoundCache]:
    found: list[FoundCache] = []
    users = Users()
    for node in graph:
        name = op(node)
        if name == "TensorScatter":
            found.append(_scatter(node, users))
        elif name in OPERATORS:
            found.extend(_operator_past(node))
        elif name == "Concat":
            found.extend(_concat(node, users))
    return found


# The three styles.


def _scatter(node: ir.Node, users: Users) -> FoundCache:
    """TensorScatter: graph input -> past_cache, output -> graph output and attention."""
    past = graph_input(input_at(node, 0))
    if past is None:
        raise unsupported(f"past_cache of the {describe(node)} is not a graph input, expected one")
    if input_at(node, 2) is None:
        raise unsupported(
            f"The {describe(node)} has no write_indices, so every step would overwrite position 0; "
            "expected a graph input that feeds them"
        )
    present = graph_output(node.outputs[0])
    if present is None:
        raise unsupported(f"The output of the {describe(node)} is not a graph output, so its cache would be lost")
    mode = attribute(node, "mode", "linear")
    if mode not in get_args(CacheMode):
        raise unsupported(f"The {describe(node)} has mode {mode!r}, expected 'linear' or 'circular'")
    use = _single_use(node.outputs[0], f"the {describe(node)}", users)
    axis = _axis(past, attribute(node, "axis", -2), node)
    reason = f"{describe(node)} writes it on axis {axis} ({mode}); {_read_by(use)}"
    return FoundCache("scatter", use.kind, past, present, axis, cast(CacheMode, mode), use, reason)


def _operator_past(node: ir.Node) -> list[FoundCache]:
    """The attention operator's own past inputs and present outputs."""
    operator = OPERATORS[op(node)]
    pasts = [input_at(node, index) for index in operator.past]
    if pasts == [None, None]:
        return []
    style: CacheStyle = "shared" if op(node) == _CONTRIB_SHARED else "concat"
    found = []
    kinds: tuple[Kind, Kind] = ("key", "value")
    for kind, value, index in zip(kinds, pasts, operator.present, strict=True):
        past, output = graph_input(value), output_at(node, index)
        present = None if output is None else graph_output(output)
        if past is None or present is None:
            end = "input" if past is None else "output"
            raise unsupported(
                f"past_{kind} and present_{kind} of the {describe(node)} must be a graph input and a graph "
                f"output, but there is no such {end}"
            )
        reason = f"past_{kind} and present_{kind} of the {describe(node)}"
        use = AttentionUse(kind, node, node, ())
        found.append(FoundCache(style, kind, past, present, _axis(past, 2, node), "linear", use, reason))
    return found


def _concat(node: ir.Node, users: Users) -> list[FoundCache]:
    """Concat of a graph input and the new keys or values, read by attention."""
    pasts = [graph_input(value) for value in node.inputs]
    caches = [past for past in pasts if past is not None and rank(past) in (3, 4, None) and _is_float(past)]
    if not caches:
        return []
    present = graph_output(node.outputs[0])
    if present is None or not attention_uses(node.outputs[0], users):
        return []  # Some other input; whoever looks for roles will name it.
    past = pasts[0]
    if past is None or len(node.inputs) != 2:
        raise unsupported(f"The {describe(node)} joins a cache, expected exactly the past and then the new tokens")
    use = _single_use(node.outputs[0], f"the {describe(node)}", users)
    axis = _axis(past, attribute(node, "axis", 0), node)
    reason = f"{describe(node)} appends to it on axis {axis}; {_read_by(use)}"
    return [FoundCache("concat", use.kind, past, present, axis, "linear", use, reason)]


# Helpers of the styles.


def _is_float(value: ir.Value) -> bool:
    return "float" in dtype_name(value)


def _single_use(value: ir.Value, writer: str, users: Users) -> AttentionUse:
    """How attention reads a cache; layers that share a cache all read it in the same way."""
    uses = attention_uses(value, users)
    kinds = {use.kind for use in uses}
    if len(kinds) != 1:
        seen = "both keys and values" if kinds else "neither keys nor values of any attention"
        raise unsupported(f"What {writer} gives is read as {seen}, expected exactly one of them")
    return uses[0]


def _read_by(use: AttentionUse) -> str:
    between = f" through {' and '.join(dict.fromkeys(map(op, use.path)))}" if use.path else ""
    place = "the keys" if use.kind == "key" else "the values"
    if use.anchor is use.reader:
        return f"{describe(use.anchor)} reads it as {place}{between}"
    side = "before" if use.kind == "key" else "after"
    return f"{describe(use.reader)} {side} the {describe(use.anchor)} reads it as {place}{between}"


def _axis(past: ir.Value, axis: int, node: ir.Node) -> int:
    """The sequence axis, counted from the front."""
    axes = rank(past)
    if axes is None:
        raise unsupported(
            f"The cache input {past.name!r} has no shape, expected rank 3 or 4",
            "Run shape inference, or export the model with shapes for its inputs.",
        )
    front = axis + axes if axis < 0 else axis
    if (axes, front) not in ((4, 2), (3, 1)):
        raise unsupported(
            f"The {describe(node)} keeps {past.name!r} with rank {axes} and the sequence on axis {front}, "
            "expected (B, Hkv, C, D) with axis 2 or (B, C, Hkv * D) with axis 1"
        )
    return front


def _layout(tensor: FoundCache) -> CacheLayout:
    return "bnsh" if rank(tensor.past) == 4 else "bsh"


def _no_tensor_twice(found: Iterable[FoundCache]) -> None:
    end_of: tuple[Callable[[FoundCache], ir.Value], ...] = (lambda tensor: tensor.past, lambda tensor: tensor.present)
    tensors = list(found)
    for end in end_of:
        counts = Counter(str(end(tensor).name) for tensor in tensors)
        double = next((name for name, count in counts.items() if count > 1), None)
        if double is not None:
            raise unsupported(f"{double!r} is the cache of two layers, expected one tensor for each")


def _pair(found: list[FoundCache], order: dict[ir.Node, int]) -> list[tuple[FoundCache, FoundCache]]:
    """Keys and values of the same attention, in graph order."""
    by_anchor: dict[ir.Node, dict[Kind, list[FoundCache]]] = {}
    for tensor in found:
        by_anchor.setdefault(tensor.use.anchor, {}).setdefault(tensor.kind, []).append(tensor)
    # Names decide only between layers that the graph does not order.
    anchors = sorted(
        by_anchor,
        key=lambda node: (order.get(node, len(order)), _numbers(next(iter(by_anchor[node].values()))[0])),
    )
    layers = []
    for anchor in anchors:
        keys, values = by_anchor[anchor].get("key", []), by_anchor[anchor].get("value", [])
        if len(keys) != 1 or len(values) != 1:
            raise unsupported(
                f"The {describe(anchor)} reads {len(keys)} key and {len(values)} value caches, expected one of each"
            )
        layers.append((keys[0], values[0]))
    return layers


def _numbers(tensor: FoundCache) -> tuple[int, ...]:
    return tuple(int(digits[:9]) for digits in re.findall(r"[0-9]+", str(tensor.past.name)))
