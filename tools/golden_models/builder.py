# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What both forms of a graph share: nodes, constants, and the parts of a decoder around attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from genai_iface.conformance.decoder.plan import Plan
from genai_iface.conformance.decoder.quantized import BLOCK, codes_of, is_quantized, packed
from genai_iface.conformance.decoder.weights import rotary_tables
from tools.golden_models.numpy_dtypes import NUMPY_DTYPES

__all__ = ["ONNX_DTYPES", "Builder"]

ONNX_DTYPES: Mapping[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


class Builder:
    """Collects nodes, constants, inputs and outputs of one decoder.

    Args:
        plan: The sizes and features of the decoder.
        weights: The arrays by name that ``weights_of`` returned.
        dtype: Element type of weights, cache and logits.
    """

    opset = 24

    def __init__(self, plan: Plan, weights: Mapping[str, NDArray[np.float64]], dtype: str) -> None:
        self.plan = plan
        self.weights = weights
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def build(self) -> onnx.ModelProto:
        """The whole model, checked."""
        plan = self.plan
        ids = self.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        self.begin(ids)
        cos, sin = (table.astype(NUMPY_DTYPES[self.dtype]) for table in rotary_tables(plan, self.dtype))
        self.tables = self.constant("cos", cos), self.constant("sin", sin)
        hidden = self.op("Gather", [self.weight("embedding"), ids])
        for layer in range(plan.layers):
            hidden = self._layer(layer, hidden)
        self.op("MatMul", [self.norm("norm", hidden), self.weight("head")], out="logits")
        logits = helper.make_tensor_value_info(
            "logits", ONNX_DTYPES[self.dtype], ["batch", "sequence", plan.vocab_size]
        )
        graph = helper.make_graph(
            self.nodes, plan.name, self.inputs, [logits, *self.outputs], list(self.constants.values())
        )
        # The file format of the ONNX release that brought the opset.
        version = 11 if self.opset >= 24 else 8
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)
        onnx.checker.check_model(model, full_check=True)
        return model

    @abstractmethod
    def begin(self, ids: str) -> None:
        """Adds the inputs besides ``ids`` and what all layers use."""

    @abstractmethod
    def attention(self, layer: int, x: str) -> str:
        """Attention (batch, sequence, heads * head_dim) over the cache of a layer."""

    @abstractmethod
    def norm(self, name: str, x: str) -> str:
        """RMS normalization with the named scale."""

    # The plumbing.

    def op(self, kind: str, inputs: Sequence[str], *, out: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns that output's name."""
        name = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def input(self, name: str, dtype: int, shape: Sequence[str | int]) -> str:
        """Adds a graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Adds an initializer once."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def weight(self, name: str) -> str:
        """The initializer of a weight; it must hold the value exactly."""
        exact = self.weights[name]
        rounded = exact.astype(NUMPY_DTYPES[self.dtype])
        if not np.array_equal(rounded.astype(np.float64), exact):
            raise ValueError(f"{self.plan.name}: {name} is not exact in {self.dtype}")
        return self.constant(name, rounded)

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def number(self, value: int) -> str:
        """A constant int64 scalar."""
        return self.constant(f"int_{value}", np.array(value, np.int64))

    def length(self, value: str, axis: int) -> str:
        """The size of an axis as a scalar."""
        return self.op("Squeeze", [self.op("Shape", [value], start=axis, end=axis + 1), self.ints(0)])

    def linear(self, name: str, x: str) -> str:
        """A projection without bias."""
        matrix = self._dequantized(name) if self.plan.is_quantized and is_quantized(name) else self.weight(name)
        return self.op("MatMul", [x, matrix])

    def _dequantized(self, name: str) -> str:
        """A matrix from its blocks."""
        parts = codes_of(name, self.weights[name])
        scale = self.constant(f"{name}.scale", parts.scales.astype(NUMPY_DTYPES[self.dtype]))
        kind = {8: TensorProto.UINT8, 4: TensorProto.UINT4}[parts.bits]
        stored = {"codes": parts.codes, "zero_point": parts.zero_points}
        for what, array in stored.items():
            raw = array.tobytes() if parts.bits == 8 else packed(array)
            tensor = helper.make_tensor(f"{name}.{what}", kind, array.shape, raw, raw=True)
            self.constants[tensor.name] = tensor
        codes, zero = (f"{name}.{what}" for what in stored)
        return self.op("DequantizeLinear", [codes, scale, zero], axis=0, block_size=BLOCK)

    def split(self, x: str, heads: int) -> str:
        """(batch, sequence, heads * head_dim) to (batch, heads, sequence, head_dim)."""
        shaped = self.op("Reshape", [x, self.ints(0, 0, heads, self.plan.head_dim)])
        return self.op("Transpose", [shaped], perm=[0, 2, 1, 3])

    def merge(self, x: str) -> str:
        """(batch, heads, sequence, head_dim) to (batch, sequence, heads * head_dim)."""
        return self.op("Reshape", [self.op("Transpose", [x], perm=[0, 2, 1, 3]), self.ints(0, 0, -1)])

    def cache_tensor(self, layer: int, kind: str, past: Sequence[str | int], present: Sequence[str | int]) -> str:
        """Adds the input of a cache tensor and its output; returns the input's name."""
        dtype = ONNX_DTYPES[self.dtype]
        self.outputs.append(helper.make_tensor_value_info(f"present.{layer}.{kind}", dtype, list(present)))
        return self.input(f"past_key_values.{layer}.{kind}", dtype, past)

    def _layer(self, layer: int, hidden: str) -> str:
        mixed = self.attention(layer, self.norm(f"{layer}.norm1", hidden))
        hidden = self.op("Add", [hidden, self.linear(f"{layer}.o", mixed)])
        x = self.norm(f"{layer}.norm2", hidden)
        shares = self._shares(layer, x) if self.plan.experts else [""]
        for at, share in zip(self.plan.mlps(layer), shares, strict=True):
            gate, up = self.linear(f"{at}.gate", x), self.linear(f"{at}.up", x)
            active = self.op("Mul", [self.op("Mul", [gate, self.op("Sigmoid", [gate])]), up])
            said = self.linear(f"{at}.down", active)
            hidden = self.op("Add", [hidden, self.op("Mul", [said, share]) if share else said])
        return hidden

    def _shares(self, layer: int, x: str) -> list[str]:
        """(batch, sequence, 1) for each expert: what the router gives it; chosen in float32, as models do."""
        scores = self.op("Cast", [self.linear(f"{layer}.router", x)], to=TensorProto.FLOAT)
        values, chosen = f"{layer}.best", f"{layer}.chosen"
        self.nodes.append(helper.make_node("TopK", [scores, self.ints(2)], [values, chosen], name=f"{layer}.topk"))
        shares = self.op("Cast", [self.op("Softmax", [values], axis=-1)], to=ONNX_DTYPES[self.dtype])
        nothing = self.constant("nothing", np.array(0, NUMPY_DTYPES[self.dtype]))
        found = []
        for expert in range(self.plan.experts):
            mine = self.op("Where", [self.op("Equal", [chosen, self.number(expert)]), shares, nothing])
            found.append(self.op("ReduceSum", [mine, self.ints(-1)], keepdims=1))
        return found
