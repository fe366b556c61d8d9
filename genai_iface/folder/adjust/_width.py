# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a graph that was perhaps traced with one token takes several: a proof by shapes and by what it hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._walk import is_op, op
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature

__all__ = ["takes_any_width"]

# Different from each other, and from 1.
_ROWS, _PAST, _NEW = 2, 4, 3
_HIDDEN = -5000.0
# Shapes and masks follow from constants no larger than this; weights are larger.
_SMALL = 4096
_PRODUCTS = ("MatMul", "Einsum", "FusedMatMul")
# What onnx and NumPy raise where shapes do not fit.
_REFUTED = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)

_Shape = tuple[int, ...]


def takes_any_width(model: ir.Model) -> bool:
    """Whether three new tokens after a past lead to logits of three, and none of them sees the ones behind it.

    A trace of one token gives itself away: by constants of width 1, which make other shapes, or by a mask that hides
    nothing. What cannot be followed is no proof.
    """
    try:
        signature = derive_signature(model)
    except UnsupportedModelError:
        return False
    if signature.one_token or signature.cache.style != "concat":
        return False
    graph = _Concrete(model, signature)
    try:
        shapes = graph.shapes()
        if shapes.get(signature.logits) != (_ROWS, _NEW, signature.vocab_size):
            return False
        attending = [node for node in model.graph if _attends(node)]
        return bool(attending) and all(graph.is_causal(node, shapes) for node in attending)
    except _REFUTED:
        return False


def _attends(node: ir.Node) -> bool:
    return is_op(node, "Softmax", "Attention") or (node.domain == "com.microsoft" and "Attention" in node.op_type)


class _Concrete:
    """The graph for one step of fixed size, without its weights."""

    def __init__(self, model: ir.Model, signature: GraphSignature) -> None:
        self._signature = signature
        self._opsets = [helper.make_opsetid(domain, number) for domain, number in model.opset_imports.items()]
        self._ir_version = model.ir_version
        self._nodes = [ir.serde.serialize_node(node) for node in model.graph]
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._inputs, self._constants = self._described(model.graph)

    def _described(self, graph: ir.Graph) -> tuple[list[onnx.ValueInfoProto], dict[str, TensorProto]]:
        sizes: dict[str, _Shape] = dict.fromkeys(self._signature.inputs.values(), (_ROWS, _NEW))
        if "attention_mask" in self._signature.inputs:
            sizes[self._signature.inputs["attention_mask"]] = (_ROWS, _PAST + _NEW)
        cache = self._signature.cache
        for tensor in self._signature.cache_tensors:
            layer = cache.layers[tensor.layer]
            width = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
            rank3, rank4 = (_ROWS, _PAST, layer.num_kv_heads * width), (_ROWS, layer.num_kv_heads, _PAST, width)
            sizes[tensor.past] = rank4 if cache.layout == "bnsh" else rank3
        inputs, constants = [], {}
        for value in (*graph.inputs, *graph.initializers.values()):
            weight, name = value.const_value, str(value.name)
            if weight is not None and weight.size <= _SMALL:
                constants[name] = numpy_helper.from_array(np.asarray(weight.numpy()), name)
            elif weight is not None:
                inputs.append(helper.make_tensor_value_info(name, weight.dtype.value, weight.shape.numpy()))
            else:
                dtype = TensorProto.UNDEFINED if value.dtype is None else value.dtype.value
                inputs.append(helper.make_tensor_value_info(name, dtype, sizes.get(name)))
        return inputs, constants

    def shapes(self) -> Mapping[str, _Shape]:
        """What is known of the values' sizes."""
        outputs = [helper.make_empty_tensor_value_info(self._signature.logits)]
        inferred = onnx.shape_inference.infer_shapes(
            self._model(self._nodes, self._inputs, outputs, self._constants), data_prop=True
        )
        found: dict[str, _Shape] = {}
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                found[value.name] = tuple(dim.dim_value for dim in dims)
        return found | {name: tuple(tensor.dims) for name, tensor in self._constants.items()}

    def is_causal(self, node: ir.Node, shapes: Mapping[str, _Shape]) -> bool:
        """Whether each new token sees the past, itself and those before it, and no more."""
        if op(node) == "Attention":
            given = node.attributes.get("is_causal")
            return given is not None and given.value == 1
        if op(node) != "Softmax":
            return False
        source = node.inputs[0]
        if source is None:
            return False
        scores = self._scores(str(source.name), shapes)
        if scores.ndim < 2 or scores.shape[-2:] != (_NEW, _PAST + _NEW):
            return False
        seen = np.arange(_PAST + _NEW) <= _PAST + np.arange(_NEW)[:, None]
        return bool(((scores > _HIDDEN) == seen).all())

    def _scores(self, name: str, shapes: Mapping[str, _Shape]) -> NDArray[np.float32]:
        """What a Softmax reads where every product of queries and keys is 0: the mask alone.

        Raises:
            LookupError: It follows from something else too.
        """
        nodes: list[NodeProto] = []
        given: dict[str, NDArray[Any]] = {}
        pending, seen = [name], {name}
        for current in pending:
            maker = self._makers.get(current)
            known = self._known(current, maker, shapes)
            if known is not None:
                given[current] = known
            elif maker is not None:
                nodes.append(maker)
                fresh = [source for source in dict.fromkeys(maker.input) if source and source not in seen]
                seen.update(fresh)
                pending.extend(fresh)
        order = {id(node): place for place, node in enumerate(self._nodes)}
        nodes.sort(key=lambda node: order[id(node)])
        fed = [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for key, array in given.items()
        ]
        constants = {key: tensor for key, tensor in self._constants.items() if key in seen}
        model = self._model(nodes, fed, [helper.make_empty_tensor_value_info(name)], constants)
        with np.errstate(all="ignore"):
            found: Any = ReferenceEvaluator(model).run([name], given)
        return np.asarray(found[0], np.float32)

    def _known(self, name: str, maker: NodeProto | None, shapes: Mapping[str, _Shape]) -> NDArray[Any] | None:
        """A value that is not computed: sizes, products, and what a backend feeds. None for what is."""
        if maker is None:
            return None if name in self._constants else self._fed(name, shapes)
        if maker.op_type == "Shape" and maker.input[0] in shapes:
            bounds = {attribute.name: attribute.i for attribute in maker.attribute}
            return np.array(shapes[maker.input[0]][bounds.get("start") : bounds.get("end")], np.int64)
        return np.zeros(shapes[name], np.float32) if maker.op_type in _PRODUCTS else None

    def _fed(self, name: str, shapes: Mapping[str, _Shape]) -> NDArray[Any]:
        roles = {given: role for role, given in self._signature.inputs.items()}
        role = roles[name]
        dtype = self._signature.input_dtypes[role]
        if role == "position_ids":
            return np.tile(np.arange(_PAST, _PAST + _NEW), (_ROWS, 1)).astype(dtype)
        if role != "attention_mask":
            raise LookupError(f"scores that follow from {name!r}")
        return np.ones(shapes[name], dtype)

    def _model(
        self,
        nodes: list[NodeProto],
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        constants: Mapping[str, TensorProto],
    ) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "step", inputs, outputs, initializer=list(constants.values()))
        return helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
