# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Names of the inputs and outputs of an exported step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["name_tensors"]


def name_tensors(model: ir.Model, layers: Sequence[int], states: Sequence[tuple[str, int]]) -> None:
    """Gives inputs and outputs the names that others use too, key and value of a layer side by side, states last.

    Args:
        model: With inputs input_ids, write_indices, all keys, all values, counts if there are states, all states;
            outputs in the same order, logits first. It is changed in place.
        layers: The number of each layer that keeps keys and values.
        states: Kind and layer of each state.
    """
    inputs, outputs = list(model.graph.inputs), list(model.graph.outputs)
    count = len(layers)
    caches = [
        (f"{kind}_cache.{layer}", at + offset)
        for at, layer in enumerate(layers)
        for kind, offset in (("key", 0), ("value", count))
    ]
    named = [("input_ids", inputs[0]), ("write_indices", inputs[1]), *((name, inputs[2 + at]) for name, at in caches)]
    present = [(f"updated_{name}", outputs[1 + at]) for name, at in caches]
    if states:
        after = 2 + 2 * count
        named.insert(2, ("counts", inputs[after]))
        names = _state_names(states)
        named += [(f"past_{name}", value) for name, value in zip(names, inputs[after + 1 :], strict=True)]
        present += [(f"present_{name}", value) for name, value in zip(names, outputs[1 + 2 * count :], strict=True)]
    present.insert(0, ("logits", outputs[0]))
    for name, value in (*named, *present):
        value.name = name
    if states:
        _batch_from_ids(inputs[0], inputs[1])
    # What has no attention and no learned positions does not ask where a row stands.
    model.graph.inputs[:] = [value for name, value in named if name != "write_indices" or value.uses()]
    model.graph.outputs[:] = [value for _, value in present]


def _batch_from_ids(input_ids: ir.Value, write_indices: ir.Value) -> None:
    """The exporter asks any input for the batch size; what asks one input for nothing else need not have it."""
    for node, _ in tuple(write_indices.uses()):
        if node.op_type == "Shape":
            node.replace_input_with(0, input_ids)
            node.attributes["start"], node.attributes["end"] = ir.AttrInt64("start", 0), ir.AttrInt64("end", 1)


def _state_names(states: Sequence[tuple[str, int]]) -> list[str]:
    """Kind and layer; where a layer has several of a kind, also the place among them."""
    total, seen = Counter(states), Counter[tuple[str, int]]()
    names = []
    for kind, layer in states:
        place = f".{seen[kind, layer]}" if total[kind, layer] > 1 else ""
        names.append(f"{kind}.{layer}{place}")
        seen[kind, layer] += 1
    return names
