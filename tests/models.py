# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny decoders, written node by node: every cache style, layout and dtype that the SDK drives.

``write_folder(path, style="concat", ...)`` writes a complete model folder with seeded random
weights; ``build_model(ModelOptions(...))`` gives the graph alone. No torch is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.model_files import SPECIAL_TOKENS, write_config_files, write_tokenizer_files

NUMPY_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_ONNX_DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the graph looks like.

    Attributes:
        style: "scatter" TensorScatter; "concat" Attention's own past inputs; "concat_nodes" Concat
            before Attention; "decomposed" Concat, MatMul and Softmax; "shared" GroupQueryAttention.
        layout: "bsh" (rank 3) is possible for "scatter" and "concat_nodes".
        num_kv_heads, head_dim, v_head_dim, mode, capacity: One value, or one for each layer.
        attention_mask: The graph has that input. "decomposed" and "shared" work with and without.
        position_ids: The graph has that input; otherwise positions follow from write_indices or
            from the past's length, or, with positions_from_mask, from the mask's running sum.
        positions: "rotary" RotaryEmbedding with tables; "sincos" Cos and Sin in the graph; "learned"
            a position table that is added to the embedding.
        nonpad: "input", or "computed" as write_indices + S (scatter only).
        rotary_dim: Rotated part of each head, None for all of it.
        quantize: Linear weights as blocked DequantizeLinear.
        tied: One table for embedding and LM head.
        padded_vocab: Rows of the logits beyond the tokenizer's ids.
        anonymous: Inputs and outputs get meaningless names.
        external_data: Weights in ``model.onnx.data``.
    """

    style: Literal["scatter", "concat", "concat_nodes", "decomposed", "shared"] = "scatter"
    layout: Literal["bnsh", "bsh"] = "bnsh"
    layers: int = 2
    hidden: int = 32
    num_heads: int = 4
    num_kv_heads: int | Sequence[int] = 2
    head_dim: int | Sequence[int] = 8
    v_head_dim: int | Sequence[int] | None = None
    mode: str | Sequence[str] = "linear"
    capacity: int | Sequence[int | None] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    attention_mask: bool | None = None
    position_ids: bool = False
    positions_from_mask: bool = False
    positions: Literal["rotary", "sincos", "learned"] = "rotary"
    max_positions: int = 64
    nonpad: Literal["input", "computed"] = "input"
    softcap: float = 0.0
    rotary_dim: int | None = None
    quantize: Literal["int8", "int4"] | None = None
    block_size: int = 16
    tied: bool = False
    padded_vocab: int = 3
    anonymous: bool = False
    external_data: bool = False
    seed: int = 0

    def per_layer(self, name: str, layer: int) -> Any:
        value = getattr(self, name)
        if name == "v_head_dim" and value is None:
            value = self.head_dim
        return value if isinstance(value, str) or not isinstance(value, Sequence) else value[layer]

    @property
    def vocab_size(self) -> int:
        return 256 + len(SPECIAL_TOKENS) + self.padded_vocab

    @property
    def has_mask(self) -> bool:
        return self.attention_mask if self.attention_mask is not None else self.style in ("decomposed", "shared")


def write_folder(path: Path, /, **fields: Any) -> Path:
    """Writes a whole model folder and returns its path; ``fields`` are those of ``ModelOptions``."""
    options = ModelOptions(**fields)
    path.mkdir(parents=True, exist_ok=True)
    model = build_model(options)
    onnx.save_model(
        model,
        path / "model.onnx",
        save_as_external_data=options.external_data,
        location="model.onnx.data",
        size_threshold=64,
    )
    write_tokenizer_files(path)
    write_config_files(path, options)
    return path


def build_model(options: ModelOptions) -> onnx.ModelProto:
    """The graph of ``options``; checked by ``onnx.checker`` where the checker knows its operators."""
    model = _Builder(options).build()
    if options.style != "shared":
        onnx.checker.check_model(model)
    return model


class _Builder:
    """Collects nodes, weights, inputs and outputs."""

    def __init__(self, options: ModelOptions) -> None:
        self.o = options
        self.dtype = NUMPY_DTYPES[options.dtype]
        self.random = np.random.default_rng(options.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def build(self) -> onnx.ModelProto:
        o = self.o
        ids = self.input("input_ids", TensorProto.INT64, ["B", "S"])
        self.mask = self.input("attention_mask", TensorProto.INT64, ["B", "T"]) if o.has_mask else ""
        self.position_ids = self.input("position_ids", TensorProto.INT64, ["B", "S"]) if o.position_ids else ""
        if o.style == "scatter":
            self.write_indices = self.input("write_indices", TensorProto.INT64, ["B"])
            if o.nonpad == "input":
                self.nonpad = self.input("nonpad_kv_seqlen", TensorProto.INT64, ["B"])
        self.pasts = [self.cache_inputs(layer) for layer in range(o.layers)]
        self.length = self.op("Gather", [self.op("Shape", [ids]), self.number(1)])  # S as a scalar
        self.past_length = ""
        if o.style != "scatter":
            axis = 2 if o.layout == "bnsh" else 1
            self.past_length = self.op("Gather", [self.op("Shape", [self.pasts[0][0]]), self.number(axis)])
        elif o.nonpad == "computed":
            self.nonpad = self.op("Add", [self.write_indices, self.length])
        if not self.position_ids:
            self.position_ids = self.computed_positions(ids)
        self.bias = self.attention_bias()
        hidden = self.embedding(ids)
        for layer in range(o.layers):
            hidden = self.layer(layer, hidden)
        self.op("Identity", [self.lm_head(self.norm("final", hidden))], out="logits")
        logits = helper.make_tensor_value_info("logits", _ONNX_DTYPES[o.dtype], ["B", "S", o.vocab_size])
        graph = helper.make_graph(
            self.nodes, "tiny_decoder", self.inputs, [logits, *self.outputs], list(self.weights.values())
        )
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", 24), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=11, producer_name="tests.models")
        if o.anonymous:
            _rename_edges(model)
        return model

    # The plumbing.

    def op(self, kind: str, inputs: Sequence[str], *, out: str = "", domain: str = "", **attributes: Any) -> str:
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [name], name=f"node_{name}", domain=domain, **attributes)
        )
        return name

    def input(self, name: str, dtype: int, shape: Sequence[str | int | None]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def number(self, value: int) -> str:
        """A constant int64 scalar."""
        return self.constant(f"int_{value}".replace("-", "m"), np.array(value, np.int64))

    def vector(self, *values: int) -> str:
        return self.constant(f"ints_{'_'.join(map(str, values))}".replace("-", "m"), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        return self.constant(f"scalar_{value}".replace("-", "m").replace(".", "p"), np.array(value, self.dtype))

    def random_array(self, *shape: int, scale: float) -> np.ndarray:
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    # The parts of a decoder.

    def cache_inputs(self, layer: int) -> tuple[str, str]:
        o = self.o
        heads = o.per_layer("num_kv_heads", layer)
        past = o.per_layer("capacity", layer) or ("C" if o.style in ("scatter", "shared") else "P")
        present = past if o.style in ("scatter", "shared") else "T"
        names = []
        for kind, size in (("key", o.per_layer("head_dim", layer)), ("value", o.per_layer("v_head_dim", layer))):
            name = f"past_key_values.{layer}.{kind}"
            for where, sequence in ((name, past), (f"present.{layer}.{kind}", present)):
                shape = ["B", heads, sequence, size] if o.layout == "bnsh" else ["B", sequence, heads * size]
                info = helper.make_tensor_value_info(where, _ONNX_DTYPES[o.dtype], shape)
                (self.inputs if where == name else self.outputs).append(info)
            names.append(name)
        return names[0], names[1]

    def computed_positions(self, ids: str) -> str:
        """Positions (B, S) without an input of their own."""
        if self.o.positions_from_mask:
            running = self.op("CumSum", [self.mask, self.number(1)])
            every = self.op("Max", [self.op("Sub", [running, self.number(1)]), self.number(0)])
            return self.op(
                "Slice",
                [
                    every,
                    self.op("Unsqueeze", [self.past_length, self.vector(0)]),
                    self.vector(2**31 - 1),
                    self.vector(1),
                ],
            )
        steps = self.op("Range", [self.number(0), self.length, self.number(1)])
        if self.o.style == "scatter":
            return self.op("Add", [self.op("Unsqueeze", [self.write_indices, self.vector(1)]), steps])
        row = self.op("Unsqueeze", [self.op("Add", [steps, self.past_length]), self.vector(0)])
        return self.op("Expand", [row, self.op("Shape", [ids])])

    def attention_bias(self) -> str:
        """The boolean mask (B or 1, 1, S, T) that the style needs besides is_causal, or ""."""
        o = self.o
        keep = ""
        if self.mask and o.style != "shared":
            keep = self.op("Unsqueeze", [self.op("Cast", [self.mask], to=TensorProto.BOOL), self.vector(1, 2)])
        if o.style in ("scatter", "concat", "shared"):
            if not keep:
                return ""
            shape = self.op(
                "Concat", [self.vector(1, 1), self.op("Reshape", [self.length, self.vector(1)]), self.vector(1)], axis=0
            )
            return self.op("Expand", [keep, shape])
        total = self.op("Add", [self.past_length, self.length])
        keys = self.op("Range", [self.number(0), total, self.number(1)])
        queries = self.op("Unsqueeze", [self.op("Range", [self.past_length, total, self.number(1)]), self.vector(1)])
        causal = self.op("Unsqueeze", [self.op("LessOrEqual", [keys, queries]), self.vector(0, 1)])
        return self.op("And", [causal, keep]) if keep else causal

    def quantized(self, name: str, weight: np.ndarray) -> tuple[str, str]:
        """Constants of ``weight`` (K, N) in blocks along K: integers (K, N), scales (K / block, N)."""
        o = self.o
        kind, top = (np.dtype(np.int8), 127) if o.quantize == "int8" else (np.dtype(ml_dtypes.int4), 7)
        blocks = weight.reshape(-1, o.block_size, weight.shape[1])
        scales = np.maximum(np.abs(blocks).max(axis=1), 1e-6) / top
        integers = np.clip(np.rint(blocks / scales[:, None]), -top, top).reshape(weight.shape)
        return (
            self.constant(f"{name}.quantized", integers.astype(np.int8).astype(kind)),
            self.constant(f"{name}.scales", scales.astype(self.dtype)),
        )

    def linear(self, name: str, x: str, inputs: int, outputs: int, *, weight: np.ndarray | None = None) -> str:
        if weight is None:
            weight = self.random_array(inputs, outputs, scale=inputs**-0.5)
        if self.o.quantize:
            integers, scales = self.quantized(name, weight)
            matrix = self.op("DequantizeLinear", [integers, scales], axis=0, block_size=self.o.block_size)
        else:
            matrix = self.constant(f"{name}.weight", weight.astype(self.dtype))
        return self.op("MatMul", [x, matrix])

    def norm(self, name: str, x: str) -> str:
        scale = self.constant(f"{name}.norm", (1 + self.random_array(self.o.hidden, scale=0.1)).astype(self.dtype))
        return self.op("RMSNormalization", [x, scale], axis=-1, epsilon=1e-5)

    def embedding(self, ids: str) -> str:
        o = self.o
        self.table = self.random_array(o.vocab_size, o.hidden, scale=1.0)
        if o.tied and o.quantize:
            integers, scales = self.quantized("lm_head", self.table.T)
            columns = [self.op("Gather", [part, ids], axis=1) for part in (integers, scales)]
            dequantized = self.op("DequantizeLinear", columns, axis=0, block_size=o.block_size)
            hidden = self.op("Transpose", [dequantized], perm=[1, 2, 0])
        else:
            hidden = self.op("Gather", [self.constant("embedding", self.table.astype(self.dtype)), ids])
        if o.positions == "learned":
            table = self.random_array(o.max_positions, o.hidden, scale=0.5).astype(self.dtype)
            hidden = self.op("Add", [hidden, self.op("Gather", [self.constant("positions", table), self.position_ids])])
        return hidden

    def lm_head(self, x: str) -> str:
        o = self.o
        if not o.tied:
            return self.linear("lm_head", x, o.hidden, o.vocab_size)
        if o.quantize:
            return self.linear("lm_head", x, o.hidden, o.vocab_size, weight=self.table.T)
        return self.op("MatMul", [x, self.op("Transpose", ["embedding"], perm=[1, 0])])

    def layer(self, layer: int, hidden: str) -> str:
        o = self.o
        attended = self.attention(layer, self.norm(f"{layer}.attention", hidden))
        hidden = self.op("Add", [hidden, attended])
        x = self.norm(f"{layer}.mlp", hidden)
        gate = self.linear(f"{layer}.gate", x, o.hidden, 2 * o.hidden)
        up = self.linear(f"{layer}.up", x, o.hidden, 2 * o.hidden)
        active = self.op("Mul", [self.op("Mul", [gate, self.op("Sigmoid", [gate])]), up])
        return self.op("Add", [hidden, self.linear(f"{layer}.down", active, 2 * o.hidden, o.hidden)])

    def attention(self, layer: int, x: str) -> str:
        o = self.o
        kv_heads, size = o.per_layer("num_kv_heads", layer), o.per_layer("head_dim", layer)
        v_size = o.per_layer("v_head_dim", layer)
        q = self.linear(f"{layer}.q", x, o.hidden, o.num_heads * size)
        k = self.linear(f"{layer}.k", x, o.hidden, kv_heads * size)
        v = self.linear(f"{layer}.v", x, o.hidden, kv_heads * v_size)
        if o.layout == "bnsh":
            q, k = self.split(q, o.num_heads, size), self.split(k, kv_heads, size)
            v = self.split(v, kv_heads, v_size)
        q, k = self.rotate(q, o.num_heads, size), self.rotate(k, kv_heads, size)
        mixed = getattr(self, f"_{o.style}")(layer, q, k, v)
        return self.linear(f"{layer}.o", mixed, o.num_heads * v_size, o.hidden)

    def split(self, x: str, heads: int, size: int) -> str:
        """(B, S, heads * size) to (B, heads, S, size)."""
        return self.op("Transpose", [self.op("Reshape", [x, self.vector(0, 0, heads, size)])], perm=[0, 2, 1, 3])

    def merge(self, x: str, heads: int, size: int) -> str:
        """(B, heads, S, size) to (B, S, heads * size)."""
        return self.op("Reshape", [self.op("Transpose", [x], perm=[0, 2, 1, 3]), self.vector(0, 0, heads * size)])

    def rotate(self, x: str, heads: int, size: int) -> str:
        o = self.o
        if o.positions == "learned":
            return x
        part = o.rotary_dim or size
        frequencies = 100.0 ** (-np.arange(0, part, 2) / part)
        if o.positions == "sincos":
            return self.rotate_by_hand(x, part, size, frequencies)
        angles = np.arange(o.max_positions)[:, None] * frequencies
        tables = [self.constant(f"{f.__name__}_{part}", f(angles).astype(self.dtype)) for f in (np.cos, np.sin)]
        attributes: dict[str, Any] = {} if part == size else {"rotary_embedding_dim": part}
        if o.layout == "bsh" or attributes:
            attributes["num_heads"] = heads
        return self.op("RotaryEmbedding", [x, *tables, self.position_ids], **attributes)

    def rotate_by_hand(self, x: str, part: int, size: int, frequencies: np.ndarray) -> str:
        """The rotation as exporters write it, for x (B, H, S, D)."""
        if self.o.layout == "bsh":
            raise ValueError("sincos needs the layout bnsh")
        places = self.op("Cast", [self.op("Unsqueeze", [self.position_ids, self.vector(1, 3)])], to=TensorProto.FLOAT)
        row = self.constant(f"frequencies_{part}", frequencies.astype(np.float32)[None, None, None])
        angles = self.op("MatMul", [places, row])
        cos, sin = (self.op("Cast", [self.op(f, [angles])], to=_ONNX_DTYPES[self.o.dtype]) for f in ("Cos", "Sin"))
        slices = [(0, part // 2), (part // 2, part), (part, size)]
        first, second, rest = (self.op("Slice", [x, self.vector(a), self.vector(b), self.vector(3)]) for a, b in slices)
        left = self.op("Sub", [self.op("Mul", [first, cos]), self.op("Mul", [second, sin])])
        right = self.op("Add", [self.op("Mul", [second, cos]), self.op("Mul", [first, sin])])
        return self.op("Concat", [left, right, rest], axis=-1)

    # The cache styles. Each takes q, k, v in the layout and gives (B, S, H * Dv).

    def _scatter(self, layer: int, q: str, k: str, v: str) -> str:
        o = self.o
        axis = 2 if o.layout == "bnsh" else 1
        presents = [
            self.op(
                "TensorScatter",
                [past, new, self.write_indices],
                out=f"present.{layer}.{kind}",
                axis=axis,
                mode=o.per_layer("mode", layer),
            )
            for past, new, kind in zip(self.pasts[layer], (k, v), ("key", "value"), strict=True)
        ]
        nonpad = self.nonpad
        if o.per_layer("mode", layer) == "circular":
            # A ring that has wrapped is valid everywhere.
            ring = self.op("Shape", [self.pasts[layer][0]], start=axis, end=axis + 1)
            nonpad = self.op("Min", [nonpad, ring])
        return self.attend(layer, [q, *presents, self.bias, "", "", nonpad])

    def _concat(self, layer: int, q: str, k: str, v: str) -> str:
        if self.o.layout == "bsh":
            raise ValueError("Attention's past inputs have rank 4")
        outputs = [f"present.{layer}.key", f"present.{layer}.value"]
        return self.attend(layer, [q, k, v, self.bias, *self.pasts[layer]], presents=outputs)

    def _concat_nodes(self, layer: int, q: str, k: str, v: str) -> str:
        return self.attend(layer, [q, *self.appended(layer, k, v), self.bias], causal=0)

    def _decomposed(self, layer: int, q: str, k: str, v: str) -> str:
        o = self.o
        if o.layout == "bsh":
            raise ValueError("decomposed attention is written for rank 4")
        heads, size = o.per_layer("num_kv_heads", layer), o.per_layer("head_dim", layer)
        v_size = o.per_layer("v_head_dim", layer)
        k, v = self.appended(layer, k, v)
        k, v = self.repeat(k, heads, size), self.repeat(v, heads, v_size)
        scores = self.op("MatMul", [q, self.op("Transpose", [k], perm=[0, 1, 3, 2])])
        scores = self.op("Mul", [scores, self.scalar(size**-0.5)])
        if o.softcap:
            capped = self.op("Tanh", [self.op("Div", [scores, self.scalar(o.softcap)])])
            scores = self.op("Mul", [capped, self.scalar(o.softcap)])
        scores = self.op("Where", [self.bias, scores, self.scalar(-30000.0)])
        mixed = self.op("MatMul", [self.op("Softmax", [scores], axis=-1), v])
        return self.merge(mixed, o.num_heads, v_size)

    def _shared(self, layer: int, q: str, k: str, v: str) -> str:
        o = self.o
        heads, size = o.per_layer("num_kv_heads", layer), o.per_layer("head_dim", layer)
        if not hasattr(self, "seqlens"):
            self.seqlens = self.shared_lengths()
        packed = [self.merge(x, n, size) for x, n in ((q, o.num_heads), (k, heads), (v, heads))]
        name = f"attention_{layer}"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*packed, *self.pasts[layer], *self.seqlens],
                [name, f"present.{layer}.key", f"present.{layer}.value"],
                name=f"node_{name}",
                domain="com.microsoft",
                num_heads=o.num_heads,
                kv_num_heads=heads,
                softcap=o.softcap,
            )
        )
        return name

    def shared_lengths(self) -> tuple[str, str]:
        if not self.mask:
            return (
                self.input("seqlens_k", TensorProto.INT32, ["B"]),
                self.input("total_sequence_length", TensorProto.INT32, []),
            )
        total = self.op("ReduceSum", [self.mask, self.vector(1)], keepdims=0)
        last = self.op("Cast", [self.op("Sub", [total, self.number(1)])], to=TensorProto.INT32)
        longest = self.op("Gather", [self.op("Shape", [self.mask]), self.number(1)])
        return last, self.op("Cast", [longest], to=TensorProto.INT32)

    def appended(self, layer: int, k: str, v: str) -> tuple[str, str]:
        axis = 2 if self.o.layout == "bnsh" else 1
        key, value = (
            self.op("Concat", [past, new], out=f"present.{layer}.{kind}", axis=axis)
            for past, new, kind in zip(self.pasts[layer], (k, v), ("key", "value"), strict=True)
        )
        return key, value

    def repeat(self, x: str, heads: int, size: int) -> str:
        """repeat_kv: (B, Hkv, T, D) to (B, H, T, D)."""
        groups = self.o.num_heads // heads
        if groups == 1:
            return x
        wide = self.op("Expand", [self.op("Unsqueeze", [x, self.vector(2)]), self.vector(1, 1, groups, 1, 1)])
        return self.op("Reshape", [wide, self.vector(0, self.o.num_heads, -1, size)])

    def attend(self, layer: int, inputs: list[str], *, presents: Sequence[str] = (), causal: int = 1) -> str:
        o = self.o
        while not inputs[-1]:
            inputs.pop()
        attributes: dict[str, Any] = {"is_causal": causal}
        if o.softcap:
            attributes["softcap"] = o.softcap
        if o.layout == "bsh":
            attributes |= {"q_num_heads": o.num_heads, "kv_num_heads": o.per_layer("num_kv_heads", layer)}
        name = f"attention_{layer}"
        self.nodes.append(helper.make_node("Attention", inputs, [name, *presents], name=f"node_{name}", **attributes))
        return self.merge(name, o.num_heads, o.per_layer("v_head_dim", layer)) if o.layout == "bnsh" else name


def _rename_edges(model: onnx.ModelProto) -> None:
    """Gives every input and output a name that says nothing, in an order that says nothing."""
    graph = model.graph
    names = {}
    for prefix, values in (("x", graph.input), ("y", graph.output)):
        for index, value in enumerate(values):
            names[value.name] = f"{prefix}{index}"
            value.name = names[value.name]
        ordered = list(values)[::-1]
        del values[:]
        values.extend(ordered)
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)


def option_names() -> tuple[str, ...]:
    """The fields of ``ModelOptions``."""
    return tuple(field.name for field in dataclasses.fields(ModelOptions))
