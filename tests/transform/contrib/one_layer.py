# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""A decoder of one GroupQueryAttention between a table and a head, with every attribute and input of the operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper

__all__ = ["Layer", "one_layer"]

VOCABULARY, POSITIONS = 40, 64
_ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}


@dataclass(frozen=True)
class Layer:
    """What the graph is made of.

    Attributes:
        heads, kv_heads, size: Sizes of the attention.
        packed: One input for queries, keys and values.
        rotary: Part of the head that the operator rotates, 0 for none.
        interleaved: Which elements are pairs.
        positions: An input for positions goes into the operator.
        mask: Lengths come from an attention mask, otherwise they are inputs.
        sink: One for each head.
        norms: Weights for norms of queries and keys: inside the operator, or in nodes before it.
        bias: A bias on the scores, computed from the keys' places.
        dtype, cache: Element types.
        per_channel: Scales of an int8 cache for each channel, otherwise one.
        attributes: More attributes of the node.
    """

    heads: int = 4
    kv_heads: int = 2
    size: int = 16
    packed: bool = False
    rotary: int = 0
    interleaved: int = 0
    positions: bool = False
    mask: bool = True
    sink: bool = False
    norms: Literal["", "inside", "outside"] = ""
    bias: bool = False
    dtype: str = "float32"
    cache: str = ""
    per_channel: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)


def one_layer(layer: Layer, *, seed: int = 0) -> onnx.ModelProto:
    """The graph; the head multiplies by a random matrix."""
    random = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []
    element = _ELEMENTS[layer.dtype]

    def draw(name: str, *shape: int, spread: float = 1.0) -> str:
        weights[name] = (spread * random.standard_normal(shape)).astype(layer.dtype)
        return name

    def op(kind: str, inputs: list[str], out: str, domain: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [out], name=f"node_{out}", domain=domain, **attributes))
        return out

    def const(name: str, value: Any) -> str:
        weights[name] = np.asarray(value)
        return name

    widths = [count * layer.size for count in (layer.heads, layer.kv_heads, layer.kv_heads)]
    names = ["q", "k", "v"]
    if layer.packed:
        op("Gather", [draw("table", VOCABULARY, sum(widths)), "ids"], "q")
        names = ["q", "", ""]
    else:
        for name, wide in zip(names, widths, strict=True):
            op("Gather", [draw(f"table_{name}", VOCABULARY, wide), "ids"], name)
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "S"])]
    if layer.mask:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["B", "T"]))
        op("ReduceSum", ["mask", const("one", [1])], "sums", keepdims=0)
        op("Cast", [op("Sub", ["sums", "one"], "last")], "seqlens", to=TensorProto.INT32)
        op("Gather", [op("Shape", ["mask"], "sizes"), const("index", 1)], "longest", axis=0)
        op("Cast", ["longest"], "total", to=TensorProto.INT32)
    else:
        inputs.append(helper.make_tensor_value_info("seqlens", TensorProto.INT32, ["B"]))
        inputs.append(helper.make_tensor_value_info("total", TensorProto.INT32, []))
    given = [*names, "past.key", "past.value", "seqlens", "total", *[""] * 9]
    if layer.rotary:
        angles = np.outer(np.arange(POSITIONS), 10.0 ** -np.linspace(0, 3, layer.rotary // 2))
        given[7], given[8] = (
            const("cos", np.cos(angles).astype(layer.dtype)),
            const("sin", np.sin(angles).astype(layer.dtype)),
        )
    if layer.positions:
        inputs.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["B", "S"]))
        given[9] = "position_ids"
    if layer.bias:
        op("Range", [const("zero", 0), "longest", const("step", 1)], "places")
        op("Cast", ["places"], "real", to=element)
        op("Reshape", [op("Sin", ["real"], "waves"), const("four", [1, 1, 1, -1])], "wide")
        op(
            "Expand",
            [
                "wide",
                op(
                    "Concat",
                    [
                        const("ones", [1, 1]),
                        op("Slice", [op("Shape", ["ids"], "idsize"), const("a", [1]), const("b", [2])], "width"),
                        "one",
                    ],
                    "to",
                    axis=0,
                ),
            ],
            "scores_bias",
        )
        given[10] = "scores_bias"
    if layer.sink:
        given[11] = draw("sink", layer.heads)
    cache = layer.cache or layer.dtype
    attributes = dict(layer.attributes)
    if cache == "int8":
        for slot, name in ((12, "k_scale"), (13, "v_scale")):
            shape = (1, layer.kv_heads, 1, layer.size) if layer.per_channel else (1,)
            given[slot] = const(name, (0.02 + 0.02 * random.random(shape)).astype(np.float32))
        kind = "PER_CHANNEL" if layer.per_channel else "PER_TENSOR"
        attributes |= {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": 8}
    if layer.norms:
        for slot, name in ((14, "q"), (15, "k")):
            weight = draw(f"{name}_norm", layer.size)
            if layer.norms == "inside":
                given[slot] = weight
                continue
            split = op("Reshape", [name, const(f"{name}_apart", [0, 0, -1, layer.size])], f"{name}_split")
            normed = op("SimplifiedLayerNormalization", [split, weight], f"{name}_normed", axis=-1, epsilon=1e-6)
            given[slot - 14] = op("Reshape", [normed, const(f"{name}_flat", [0, 0, -1])], f"{name}_joined")
    while not given[-1]:
        given.pop()
    shape = ["B", layer.kv_heads, "C", layer.size]
    inputs += [helper.make_tensor_value_info(f"past.{kind}", _ELEMENTS[cache], shape) for kind in ("key", "value")]
    nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            given,
            ["mixed", "present.key", "present.value"],
            name="the_attention",
            domain="com.microsoft",
            num_heads=layer.heads,
            kv_num_heads=layer.kv_heads,
            do_rotary=int(layer.rotary > 0),
            rotary_interleaved=layer.interleaved,
            **attributes,
        )
    )
    op("MatMul", ["mixed", draw("head", widths[0], VOCABULARY, spread=0.3)], "logits")
    outputs = [helper.make_tensor_value_info("logits", element, ["B", "S", VOCABULARY])]
    outputs += [helper.make_tensor_value_info(f"present.{kind}", _ELEMENTS[cache], shape) for kind in ("key", "value")]
    tensors = [ir.serde.serialize_tensor(ir.Tensor(array, name=name)) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "one_layer", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)
