# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Names by which a person finds the parts of an exported graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.build.checkpoint.integers import numpy_of

__all__ = ["name_parts", "name_tensors", "name_weights"]

_WRAPPER = "network."
# Elements along an axis by which a matrix is known.
_SAMPLED = 64


def name_tensors(model: ir.Model, layers: int, states: Sequence[tuple[str, int]]) -> None:
    """Gives inputs and outputs the names that others use too, key and value of a layer side by side, states last.

    Args:
        model: With inputs input_ids, write_indices, all keys, all values, counts if there are states, all states;
            outputs in the same order, logits first. It is changed in place.
        layers: Layers with keys and values.
        states: Kind and layer of each state.
    """
    inputs, outputs = list(model.graph.inputs), list(model.graph.outputs)
    caches = [(f"{kind}_cache.{layer}", kind == "value", layer) for layer in range(layers) for kind in ("key", "value")]
    past = [(name, inputs[2 + layers * is_value + layer]) for name, is_value, layer in caches]
    present = [(f"updated_{name}", outputs[1 + layers * is_value + layer]) for name, is_value, layer in caches]
    named = [("input_ids", inputs[0]), ("write_indices", inputs[1]), *past]
    if states:
        after = 2 + 2 * layers
        named.insert(2, ("counts", inputs[after]))
        names = _state_names(states)
        named += [(f"past_{name}", value) for name, value in zip(names, inputs[after + 1 :], strict=True)]
        present += [(f"present_{name}", value) for name, value in zip(names, outputs[1 + 2 * layers :], strict=True)]
    present.insert(0, ("logits", outputs[0]))
    for name, value in (*named, *present):
        value.name = name
    # What has no attention and no learned positions does not ask where a row stands.
    model.graph.inputs[:] = [value for name, value in named if name != "write_indices" or value.uses()]
    model.graph.outputs[:] = [value for _, value in present]


def _state_names(states: Sequence[tuple[str, int]]) -> list[str]:
    """Kind and layer; where a layer has several of a kind, also the place among them."""
    total, seen = Counter(states), Counter[tuple[str, int]]()
    names = []
    for kind, layer in states:
        place = f".{seen[kind, layer]}" if total[kind, layer] > 1 else ""
        names.append(f"{kind}.{layer}{place}")
        seen[kind, layer] += 1
    return names


def name_parts(model: ir.Model) -> None:
    """Names cache writes and attention after their layer, and weights as in the checkpoint.

    Args:
        model: With caches named "key_cache.0" and so on. It is changed in place.
    """
    taken = {str(node.name) for node in model.graph}
    for value in model.graph.inputs:
        kind, _, layer = str(value.name).partition("_cache.")
        if kind not in ("key", "value") or not layer.isdecimal():
            continue
        for writer, _ in value.uses():
            _rename(writer, f"layers.{layer}.{kind}_scatter", taken)
            for reader, _ in writer.outputs[0].uses():
                if reader.op_type == "Attention" and kind == "key":
                    _rename(reader, f"layers.{layer}.attention", taken)
    for name, weight in list(model.graph.initializers.items()):
        short = name.removeprefix(_WRAPPER)
        if short != name and short not in model.graph.initializers:
            weight.name = short


def name_weights(model: ir.Model, network: Any) -> None:
    """Names matrices as the checkpoint does, which exporters turn round and number, and products after them.

    Args:
        model: It is changed in place.
        network: With the parameters that the model was made of.
    """
    names: dict[bytes, str] = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            names.setdefault(_sample(parameter), name)
    graph = model.graph
    known = {name for name, _ in network.named_parameters()}
    nodes = {str(node.name) for node in graph}
    for old, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
            continue
        name = old if old in known else names.get(_sample(tensor.numpy().T)) or names.get(_sample(tensor.numpy()))
        if name is None:
            continue
        if old not in known and name not in graph.initializers:
            value.name = name
        for reader, index in value.uses():
            if index == 1 and reader.op_type in ("MatMul", "Gemm"):
                _rename(reader, name.removesuffix(".weight"), nodes)


def _sample(matrix: Any) -> bytes:
    """What tells a matrix from others: its shape, and elements all over it."""
    steps = tuple(slice(None, None, max(size // _SAMPLED, 1)) for size in matrix.shape)
    part = matrix[steps]
    values: NDArray[Any] = part if isinstance(part, np.ndarray) else numpy_of(part.detach().cpu())
    return str(tuple(matrix.shape)).encode() + np.ascontiguousarray(values).tobytes()


def _rename(node: ir.Node, name: str, taken: set[str]) -> None:
    """A layer whose cache several attentions read has only one of that name."""
    if name not in taken:
        taken.add(name)
        node.name = name
