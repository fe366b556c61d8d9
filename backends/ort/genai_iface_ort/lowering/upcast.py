# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Lets bfloat16 models run where ONNX Runtime has no bfloat16 kernels: computes in float32.

Weights and activations become float32. The cache tensors stay bfloat16: what enters them is rounded as
before, and what is read is widened, so a cache takes no more memory than on other backends.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph import CacheTensor, GraphSignature, StateTensor, is_op

__all__ = ["upcast_bfloat16"]

_NARROW, _WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")


def upcast_bfloat16(model: ir.Model, signature: GraphSignature) -> str:
    """Turns every bfloat16 value but the cache into float32.

    Args:
        model: Changed in place.
        signature: The signature that was derived from the graph.

    Returns:
        One line that says what was done.

    Raises:
        UnsupportedModelError: The cache goes through an operator that shares its buffer, so that it
            cannot be widened on the way.
    """
    if signature.cache.style == "shared":
        raise UnsupportedModelError(
            "ONNX Runtime's GroupQueryAttention has no bfloat16 kernel on the processor",
            remedy="Build the folder in float32 or float16, or run it on CUDA.",
        )
    tensors: tuple[CacheTensor | StateTensor, ...] = (*signature.cache_tensors, *signature.state_tensors)
    pasts = {tensor.past for tensor in tensors}
    presents = {tensor.present for tensor in tensors}
    # An int8 cache has its own scales; only what they are applied to is widened.
    narrow_pasts = [value for value in model.graph.inputs if value.name in pasts and value.dtype == _NARROW]
    _widen_constants(model.graph)
    _widen_values(model.graph, pasts | presents)
    for node in list(model.graph):
        if is_op(node, "TensorScatter") and node.outputs[0].dtype != ir.DataType.INT8:
            _keep_narrow(node)
    for value in narrow_pasts:
        _widen_uses(value)
    _narrow_outputs(model.graph, presents)
    return "bfloat16: computed in float32, the cache stays bfloat16"


def _widen_constants(graph: ir.Graph) -> None:
    """Weights, and the constants and target types in attributes."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == _NARROW:
            value.const_value = _widened(tensor)
            value.dtype = _WIDE
    for node in graph:
        _widen_attributes(node)


def _widen_values(graph: ir.Graph, kept: set[str]) -> None:
    """The types of all values but those of these names."""
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype == _NARROW and value.name not in kept:
            value.dtype = _WIDE


def _narrow_outputs(graph: ir.Graph, presents: set[str]) -> None:
    """Rounds the presents that no TensorScatter gives: it has written narrow values already."""
    for index, output in enumerate(graph.outputs):
        producer = output.producer()
        is_narrow = output.dtype == _NARROW and output.name in presents
        if is_narrow and producer is not None and not is_op(producer, "TensorScatter"):
            graph.outputs[index] = _narrowed_output(output, producer)


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for attribute in list(node.attributes.values()):
        if (
            attribute.name in _DTYPE_ATTRIBUTES
            and attribute.type == ir.AttributeType.INT
            and attribute.as_int() == _NARROW
        ):
            node.attributes[attribute.name] = ir.AttrInt64(attribute.name, int(_WIDE))
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _NARROW:
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _widened(attribute.as_tensor()))


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(to)}, name=name)
    node.outputs[0].name = name
    node.outputs[0].dtype = to
    node.outputs[0].shape = value.shape
    return node


def _keep_narrow(scatter: ir.Node) -> None:
    """Rounds what is written to the cache, widens what is read from it."""
    update, graph = scatter.inputs[1], scatter.graph
    if update is None or graph is None:
        return
    narrow = _cast(update, _NARROW, f"{scatter.outputs[0].name}_rounded")
    graph.insert_before(scatter, narrow)
    scatter.replace_input_with(1, narrow.outputs[0])
    scatter.outputs[0].dtype = _NARROW
    _widen_uses(scatter.outputs[0])


def _widen_uses(value: ir.Value) -> None:
    """Every user but TensorScatter reads a float32 copy."""
    users = [(node, index) for node, index in value.uses() if node.op_type not in ("TensorScatter", "Shape")]
    if not users or users[0][0].graph is None:
        return
    wide = _cast(value, _WIDE, f"{value.name}_wide")
    producer = value.producer()
    graph = users[0][0].graph
    if producer is not None:
        graph.insert_after(producer, wide)
    else:
        graph.insert_before(graph[0], wide)
    for node, index in users:
        node.replace_input_with(index, wide.outputs[0])


def _narrowed_output(output: ir.Value, producer: ir.Node) -> ir.Value:
    """A graph output of the old name with the rounded value."""
    name, shape = output.name, output.shape
    output.name, output.dtype = f"{name}_wide", _WIDE
    narrow = _cast(output, _NARROW, str(name))
    narrow.outputs[0].shape = shape
    if producer.graph is not None:
        producer.graph.insert_after(producer, narrow)
    return narrow.outputs[0]
