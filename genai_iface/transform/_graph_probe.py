# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs parts of a graph on small inputs, to learn what they compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._walk import describe, is_op
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.gather_elements import GatherElements

__all__ = ["GraphProbe"]

Array = NDArray[Any]

# What onnx.reference and NumPy raise when a piece of graph cannot run on a probe.
_RUN_ERRORS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_INDEX_ROLES = ("attention_mask", "position_ids", "write_indices", "nonpad_kv_seqlen", "seqlens_k")


class GraphProbe:
    """Evaluates values of a graph for a step of ``new`` tokens after ``past`` ones, the mask all ones.

    *Index values* are those that follow from shapes, the attention mask, positions and lengths alone, not from
    tokens: masks, positions, targets of Reshape. They are cheap to compute at any model size.

    Args:
        model: The model, local functions inlined.
        signature: The signature that was derived from the graph.

    Attributes:
        index_values: All of them, in graph order.
    """

    def __init__(self, model: ir.Model, signature: GraphSignature) -> None:
        self._model, self._signature = model, signature
        self._order = {node: place for place, node in enumerate(model.graph)}
        self._cuts: set[ir.Value] = set()
        self.index_values = self._find_index_values()

    def feeds(self, past: int, new: int, batch: int = 2) -> dict[str, Array]:
        """What a backend would feed for such a step, by input name."""
        signature = self._signature
        total = past + new
        by_role: dict[str, Array] = {
            "input_ids": np.zeros((batch, new), np.int64),
            "position_ids": np.tile(np.arange(past, total), (batch, 1)),
            "attention_mask": np.ones((batch, total), np.int64),
            "write_indices": np.full(batch, past),
            "nonpad_kv_seqlen": np.full(batch, total),
            "seqlens_k": np.full(batch, total - 1),
            "total_sequence_length": np.array(total),
        }
        feeds = {name: by_role[role].astype(signature.input_dtypes[role]) for role, name in signature.inputs.items()}
        cache = signature.cache
        num_positions = past if cache.style == "concat" else total
        for tensor in signature.cache_tensors:
            layer = cache.layers[tensor.layer]
            size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
            heads, room = layer.num_kv_heads, layer.capacity or num_positions
            shape = (batch, heads, room, size) if cache.layout == "bnsh" else (batch, room, heads * size)
            feeds[tensor.past] = np.zeros(shape, getattr(ml_dtypes, layer.dtype, layer.dtype))
        return feeds

    def run(
        self,
        targets: Sequence[ir.Value],
        past: int,
        new: int,
        *,
        batch: int = 2,
        given: Mapping[ir.Value, Array] | None = None,
    ) -> list[Array]:
        """The targets' values for one step.

        Args:
            targets: Values of the graph.
            past: Tokens before the step.
            new: Tokens of the step.
            batch: The rows of the step.
            given: Values that are put in instead of being computed.

        Raises:
            UnsupportedModelError: onnx.reference cannot run that part.
        """
        feeds = self.feeds(past, new, batch)
        symbols = self._symbols(feeds)
        placed = dict(given or {})
        nodes, sources = self._cone(targets, placed)
        for source in sources:
            if source in placed:
                continue
            if source in self._cuts:
                placed[source] = self._shape_of(source, symbols)
            elif source.is_graph_input() and str(source.name) in feeds:
                placed[source] = feeds[str(source.name)]
        weights = [source for source in sources if source not in placed]
        fed = {str(value.name): np.asarray(array) for value, array in placed.items() if value in sources}
        wanted = [str(target.name) for target in targets]
        try:
            evaluator = ReferenceEvaluator(self._model_of(nodes, fed, weights, wanted), new_ops=[GatherElements])
            with np.errstate(all="ignore"):
                found = evaluator.run(wanted, fed)
        except _RUN_ERRORS as error:
            raise UnsupportedModelError(
                f"What leads to {targets[0].name!r} cannot be run on {new} tokens after {past}: {str(error)[:200]}",
                remedy="Check the model with onnx.checker, or export it again.",
            ) from error
        return [np.asarray(array) for array in found]

    def constant_scalar(self, value: ir.Value | None) -> float | None:
        """The number that an index value or constant is in every step, None if it is none."""
        if value is None:
            return None
        nodes, sources = self._cone([value], {})
        known = set(self.index_values)
        if len(nodes) > 64 or any(
            not (source in self._cuts or source in known or source.is_initializer()) for source in sources
        ):
            return None
        arrays = [self.run([value], past, new)[0] for past, new in ((4, 3), (0, 2))]
        if any(array.size != 1 for array in arrays) or arrays[0].ravel()[0] != arrays[1].ravel()[0]:
            return None
        return float(arrays[0].ravel()[0])

    def integers_before(self, targets: Iterable[ir.Value], beside: Iterable[ir.Value] = ()) -> set[int]:
        """The integer constants in what leads to some values, but not by way of those in ``beside``."""
        nodes, sources = self._cone(list(targets), set(beside))
        tensors = [source.const_value for source in sources if source.const_value is not None]
        tensors += [tensor for node in nodes for tensor in _constants(node)]
        found: set[int] = set()
        for tensor in tensors:
            if tensor.size <= 16 and tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT):
                found |= {int(number) for number in tensor.numpy().ravel() if -(2.0**31) < number < 2.0**31}
        return found

    def _find_index_values(self) -> tuple[ir.Value, ...]:
        signature = self._signature
        names = {name for role, name in signature.inputs.items() if role in _INDEX_ROLES}
        known = {value for value in self._model.graph.inputs if value.name in names}
        constants: set[ir.Value] = set()
        symbols = self._symbols(self.feeds(4, 3))
        found = [value for value in self._model.graph.inputs if value in known]
        for node in self._model.graph:
            if any(
                attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                for attribute in node.attributes.values()
            ) or is_op(node, *_RANDOM):
                continue
            source = node.inputs[0] if node.inputs else None
            if is_op(node, "Shape", "Size") and source is not None:
                if source in known or source.is_graph_input():
                    pass
                elif is_op(node, "Shape") and _sizes(source, symbols) is not None:
                    self._cuts.add(node.outputs[0])
                else:
                    continue
                known.add(node.outputs[0])
                found.append(node.outputs[0])
                continue
            inputs = [value for value in node.inputs if value is not None]
            if not all(value in known or value in constants or value.is_initializer() for value in inputs):
                continue
            is_index = any(value in known for value in inputs)
            (known if is_index else constants).update(node.outputs)
            if is_index:
                found.extend(node.outputs)
        return tuple(found)

    def _symbols(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Sizes of the dimensions that the graph inputs name."""
        sizes: dict[str, int] = {}
        for value in self._model.graph.inputs:
            if value.name in feeds and value.shape is not None and len(value.shape) == feeds[str(value.name)].ndim:
                for dimension, size in zip(value.shape, feeds[str(value.name)].shape, strict=True):
                    if isinstance(dimension, ir.SymbolicDim) and dimension.value is not None:
                        sizes[dimension.value] = size
        return sizes

    def _shape_of(self, output: ir.Value, symbols: Mapping[str, int]) -> Array:
        """What a Shape node gives, from the dimensions that the graph states."""
        node = output.producer()
        assert node is not None  # noqa: S101 - cuts are outputs of Shape nodes
        sizes = _sizes(node.inputs[0], symbols) or []
        limits = [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")]
        return np.array(sizes[limits[0] : limits[1]], np.int64)

    def _cone(self, targets: Sequence[ir.Value], given: Collection[ir.Value]) -> tuple[list[ir.Node], set[ir.Value]]:
        """The nodes before the targets, sorted, and the values that these begin with."""
        nodes: set[ir.Node] = set()
        sources: set[ir.Value] = set()
        pending, seen = list(targets), set(targets)
        while pending:
            value = pending.pop()
            node = value.producer()
            if node is None or value in given or value in self._cuts:
                sources.add(value)
                continue
            if node in nodes:
                continue
            nodes.add(node)
            for source in node.inputs:
                if source is not None and source not in seen:
                    seen.add(source)
                    pending.append(source)
        return sorted(nodes, key=lambda node: self._order[node]), sources

    def _model_of(
        self, nodes: Sequence[ir.Node], fed: Mapping[str, Array], weights: Sequence[ir.Value], wanted: Sequence[str]
    ) -> onnx.ModelProto:
        def info(name: str) -> onnx.ValueInfoProto:
            return onnx.ValueInfoProto(name=name)

        initializers = [
            onnx.numpy_helper.from_array(value.const_value.numpy(), str(value.name))
            for value in weights
            if value.const_value is not None
        ]
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in fed.items()
        ]
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in nodes],
            "probe",
            inputs,
            [info(name) for name in dict.fromkeys(wanted)],
            initializers,
        )
        opsets = [onnx.helper.make_opsetid(*item) for item in self._model.opset_imports.items()]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)

    def where(self, value: ir.Value) -> str:
        """A value as an error names it."""
        node = value.producer()
        return f"{value.name!r}" if node is None else f"{value.name!r} of the {describe(node)}"


def _sizes(value: ir.Value | None, symbols: Mapping[str, int]) -> list[int] | None:
    """A value's dimensions as numbers, None where one is not named by an input."""
    if value is None or value.shape is None:
        return None
    sizes = []
    for dimension in value.shape:
        size = dimension if isinstance(dimension, int) else symbols.get(str(dimension.value))
        if size is None:
            return None
        sizes.append(size)
    return sizes


def _constants(node: ir.Node) -> list[ir.TensorProtocol]:
    if not is_op(node, "Constant"):
        return []
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    return [] if tensor is None else [tensor]
