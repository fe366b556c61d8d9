# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Names by which a person finds the parts of an exported graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.build.checkpoint.integers import numpy_of

__all__ = ["name_parts", "name_weights"]

_WRAPPER = "network."
_CACHES = {"key_cache": "key_scatter", "value_cache": "value_scatter"}
_OPERATORS = {"CausalConvWithState": "convolution", "LinearAttention": "linear_attention"}
# Elements along an axis by which a matrix is known.
_SAMPLED = 64


def name_parts(model: ir.Model) -> None:
    """Names cache writes, attention and state operators after their layer, and weights as in the checkpoint.

    Args:
        model: With caches named "key_cache.0" and so on, states "past_conv.0". It is changed in place.
    """
    taken = {str(node.name) for node in model.graph}
    for value in model.graph.inputs:
        _name_readers(value, taken)
    for name, weight in list(model.graph.initializers.items()):
        short = name.removeprefix(_WRAPPER)
        if short != name and short not in model.graph.initializers:
            weight.name = short


def _name_readers(value: ir.Value, taken: set[str]) -> None:
    """The nodes that a cache or a state belongs to."""
    what, _, layer = str(value.name).partition(".")
    for node, _ in value.uses():
        if what in _CACHES:
            _rename(node, f"layers.{layer}.{_CACHES[what]}", taken)
            for reader, index in node.outputs[0].uses():
                if reader.op_type == "Attention" and index == 1:
                    _rename(reader, f"layers.{layer}.attention", taken)
        elif node.op_type in _OPERATORS:
            _rename(node, f"layers.{layer}.{_OPERATORS[node.op_type]}", taken)


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
