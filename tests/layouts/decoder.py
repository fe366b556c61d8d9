# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One tiny decoder in the operators of many exporters, and the same network in plain NumPy as the oracle.

Every form has the same weights, rounded as its precision asks; the oracle computes with the rounded ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.models import ModelOptions, _Builder

__all__ = ["Form", "PublishedDecoder", "greedy_tokens"]

_BASE = 100.0
_NF4 = np.array(
    (
        *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
    ),
    np.float32,
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How an exporter writes the decoder.

    Attributes:
        attention: "decomposed"; "attention" (opset 23 and up); "multi-head" and "grouped" of com.microsoft; "scatter".
        weights: "float"; "nbits4", "nbits8" MatMulNBits; "integer" DynamicQuantizeLinear and MatMulInteger; "bnb4";
            "blocks" DequantizeLinear.
        table: "float"; "block" GatherBlockQuantized; "row" Gather of int8 rows and their scales.
        norm: "standard" RMSNormalization; "simplified" of ONNX Runtime; "skip" the same with the residual; "spelled".
        rotary: "sincos"; "standard" and "contrib" RotaryEmbedding; "inside" GroupQueryAttention.
        packed: One product for queries, keys and values.
        window: Positions that every layer sees, None for all.
        window_in_graph: Whether the graph knows of it.
        window_buffer: GroupQueryAttention keeps a buffer of one window.
        kept_logits: An input says how many of the last logits are computed.
        position_ids, attention_mask: The graph has that input.
        opset: Of the default domain.
        names: Of the cache: {0} layer, {1} kind.
        layout: Of the cache.
        dtype: Of activations, cache and float weights.
        last_logits: Only the last column of logits is given.
    """

    attention: Literal["decomposed", "attention", "multi-head", "grouped", "scatter"] = "decomposed"
    weights: Literal["float", "nbits4", "nbits8", "integer", "bnb4", "blocks"] = "float"
    table: Literal["float", "block", "row"] = "float"
    norm: Literal["standard", "simplified", "skip", "spelled"] = "spelled"
    rotary: Literal["sincos", "standard", "contrib", "inside"] = "sincos"
    packed: bool = False
    window: int | None = None
    window_in_graph: bool = True
    window_buffer: bool = False
    kept_logits: bool = False
    position_ids: bool = True
    attention_mask: bool = True
    opset: int = 17
    names: tuple[str, str] = ("past_key_values.{0}.{1}", "present.{0}.{1}")
    layout: Literal["bnsh", "bsh"] = "bnsh"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    last_logits: bool = False
    seed: int = 0

    def options(self) -> ModelOptions:
        styles = {"decomposed": "decomposed", "attention": "concat_nodes", "multi-head": "concat_nodes"}
        style = {"grouped": "shared", "scatter": "scatter"}.get(self.attention) or styles[self.attention]
        return ModelOptions(
            style=style,  # type: ignore[arg-type]
            position_ids=self.position_ids,
            attention_mask=self.attention_mask and self.attention != "scatter",
            layout=self.layout,
            head_dim=16,
            dtype=self.dtype,
            seed=self.seed,
            positions="sincos" if self.rotary == "sincos" else "rotary",
        )


@dataclass
class Real:
    """The weights that a graph computes with, as float64."""

    matrices: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)


class PublishedDecoder(_Builder):
    """Writes the graph of a form; ``real`` has the weights as they are after rounding."""

    def __init__(self, form: Form) -> None:
        super().__init__(form.options())
        self.f = form
        self.real = Real()
        self.model = onnx.ModelProto()

    def build(self) -> onnx.ModelProto:
        model = super().build()
        for entry in model.opset_import:
            if not entry.domain:
                entry.version = self.f.opset
        model.ir_version = 10 if self.f.opset < 23 else 11
        model.producer_name = "pytorch"
        if self.f.last_logits:
            shape = model.graph.output[0].type.tensor_type.shape
            shape.dim[1].Clear()
            shape.dim[1].dim_value = 1
        _rename(model, self.f.names)
        return model

    # Weights.

    def linear(self, name: str, x: str, inputs: int, outputs: int, *, weight: np.ndarray | None = None) -> str:
        weight = self.random_array(inputs, outputs, scale=inputs**-0.5) if weight is None else weight
        makers = {"nbits4": self._nbits, "nbits8": self._nbits, "integer": self._integer, "bnb4": self._bnb4}
        makers["blocks"] = self._blocks
        if self.f.weights in makers:
            return makers[self.f.weights](name, x, weight)
        rounded = weight.astype(self.dtype)
        self.real.matrices[name] = rounded.astype(np.float64)
        return self.op("MatMul", [x, self.constant(f"{name}.MatMul.weight", rounded)])

    def _nbits(self, name: str, x: str, weight: np.ndarray) -> str:
        bits, block = (4, 16) if self.f.weights == "nbits4" else (8, 16)
        rows, columns = weight.shape
        middle = 2 ** (bits - 1)
        blocks = weight.T.reshape(columns, -1, block)
        scales = (np.maximum(np.abs(blocks).max(-1), 1e-6) / (middle - 1)).astype(self.dtype)
        integers = np.clip(np.rint(blocks / scales[..., None].astype(np.float32)), 1 - middle, middle - 1).astype(int)
        real = (integers * scales[..., None].astype(np.float64)).reshape(columns, rows).T
        self.real.matrices[name] = real
        codes = (integers + middle).astype(np.uint8)
        packed = codes[..., 0::2] | codes[..., 1::2] << 4 if bits == 4 else codes
        inputs = [x, self.constant(f"{name}.MatMul.weight_Q{bits}", packed)]
        inputs.append(self.constant(f"{name}.MatMul.weight_scales", scales.reshape(-1)))
        shape: dict[str, Any] = {"K": rows, "N": columns, "bits": bits, "block_size": block, "accuracy_level": 1}
        return self.op("MatMulNBits", inputs, domain="com.microsoft", **shape)

    def _integer(self, name: str, x: str, weight: np.ndarray) -> str:
        scale = np.float32(np.abs(weight).max() / 127)
        integers = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        self.real.matrices[name] = integers * np.float64(scale)
        quantized, x_scale, zero = (f"{name}_{part}" for part in ("quantized", "scale", "zero_point"))
        self.nodes.append(
            helper.make_node("DynamicQuantizeLinear", [x], [quantized, x_scale, zero], name=f"{name}_dynamic")
        )
        weight_name = self.constant(f"{name}.MatMul.weight_quantized", integers)
        whole = self.op("MatMulInteger", [quantized, weight_name, zero])
        factor = self.op("Mul", [x_scale, self.constant(f"{name}.MatMul.weight_scale", np.array(scale))])
        return self.op("Mul", [self.op("Cast", [whole], to=TensorProto.FLOAT), factor])

    def _bnb4(self, name: str, x: str, weight: np.ndarray) -> str:
        rows, columns = weight.shape
        block = 16
        blocks = weight.T.reshape(-1, block)
        largest = np.maximum(np.abs(blocks).max(-1), 1e-6).astype(np.float32)
        codes = np.abs(blocks[..., None] / largest[:, None, None] - _NF4).argmin(-1).astype(np.uint8)
        self.real.matrices[name] = (_NF4[codes].astype(np.float64) * largest[:, None]).reshape(columns, rows).T
        flat = codes.reshape(-1)
        inputs = [x, self.constant(f"{name}.MatMul.weight_Bnb4", flat[0::2] << 4 | flat[1::2])]
        inputs.append(self.constant(f"{name}.MatMul.weight_absmax", largest))
        shape: dict[str, Any] = {"K": rows, "N": columns, "block_size": block, "quant_type": 1, "training_mode": 0}
        return self.op("MatMulBnb4", inputs, domain="com.microsoft", **shape)

    def _blocks(self, name: str, x: str, weight: np.ndarray) -> str:
        block = 16
        blocks = weight.reshape(-1, block, weight.shape[1])
        scales = (np.maximum(np.abs(blocks).max(axis=1), 1e-6) / 7).astype(self.dtype)
        integers = np.clip(np.rint(blocks / scales[:, None].astype(np.float32)), -7, 7).reshape(weight.shape)
        self.real.matrices[name] = integers * np.repeat(scales.astype(np.float64), block, axis=0)
        kept = self.constant(f"{name}.weight_q", integers.astype(ml_dtypes.int4))
        inputs = [kept, self.constant(f"{name}.weight_s", scales)]
        return self.op("MatMul", [x, self.op("DequantizeLinear", inputs, axis=0, block_size=block)])

    def embedding(self, ids: str) -> str:
        if self.f.kept_logits:
            self.input("num_logits_to_keep", TensorProto.INT64, [])
        table = self.random_array(self.o.vocab_size, self.o.hidden, scale=1.0)
        name = "model.embed_tokens.weight"
        if self.f.table == "float":
            rounded = table.astype(self.dtype)
            self.real.matrices[name] = rounded.astype(np.float64)
            return self.op("Gather", [self.constant(name, rounded), ids])
        if self.f.table == "row":
            scales = (np.abs(table).max(1, keepdims=True) / 127).astype(np.float32)
            integers = np.rint(table / scales).astype(np.int8)
            self.real.matrices[name] = integers * scales.astype(np.float64)
            rows = self.op("Gather", [self.constant(f"{name}_quantized", integers), ids])
            factors = self.op("Gather", [self.constant(f"{name}_scale", scales), ids])
            return self.op("Mul", [self.op("Cast", [rows], to=TensorProto.FLOAT), factors])
        block = 16
        blocks = table.reshape(self.o.vocab_size, -1, block)
        scales = (np.abs(blocks).max(-1) / 7).astype(self.dtype)
        codes = (np.clip(np.rint(blocks / scales[..., None].astype(np.float32)), -7, 7) + 8).astype(np.uint8)
        real = (codes.astype(np.float64) - 8) * scales[..., None].astype(np.float64)
        self.real.matrices[name] = real.reshape(table.shape)
        flat = codes.reshape(self.o.vocab_size, -1)
        inputs = [self.constant(f"{name}_Q4", flat[:, 0::2] | flat[:, 1::2] << 4), ids]
        inputs.append(self.constant(f"{name}_scales", scales))
        attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        return self.op("GatherBlockQuantized", inputs, domain="com.microsoft", **attributes)

    # Norms.

    def norm(self, name: str, x: str) -> str:
        weight = (1 + self.random_array(self.o.hidden, scale=0.1)).astype(self.dtype)
        self.real.norms[name] = weight.astype(np.float64)
        scale = self.constant(f"{name}.layernorm.weight", weight)
        if self.f.norm == "standard":
            return self.op("RMSNormalization", [x, scale], axis=-1, epsilon=1e-5)
        if self.f.norm == "simplified" or (self.f.norm == "skip" and not getattr(self, "residual", "")):
            return self.op("SimplifiedLayerNormalization", [x, scale], axis=-1, epsilon=1e-5, stash_type=1)
        if self.f.norm == "skip":
            out, total = f"skipped_{len(self.nodes)}", f"total_{len(self.nodes)}"
            self.nodes.append(
                helper.make_node(
                    "SkipSimplifiedLayerNormalization",
                    [self.residual, x, scale],
                    [out, "", "", total],
                    name=f"node_{out}",
                    domain="com.microsoft",
                    epsilon=1e-5,
                )
            )
            self.residual = total
            return out
        wide = self.op("Cast", [x], to=TensorProto.FLOAT)
        two, small = (self.constant(key, np.array(value, np.float32)) for key, value in (("two", 2), ("epsilon", 1e-5)))
        mean = self.op("ReduceMean", [self.op("Pow", [wide, two])], axes=[-1])
        divided = self.op("Div", [wide, self.op("Sqrt", [self.op("Add", [mean, small])])])
        return self.op("Mul", [self.op("Cast", [divided], to=_onnx_type(self.dtype)), scale])

    def layer(self, layer: int, hidden: str) -> str:
        o = self.o
        fused = self.f.norm == "skip"
        if fused and layer == 0:
            self.residual = ""
        attended = self.attention(layer, self.norm(f"{layer}.attention", hidden))
        if fused and layer == 0:
            self.residual = hidden
        hidden = attended if fused else self.op("Add", [hidden, attended])
        x = self.norm(f"{layer}.mlp", hidden)
        gate = self.linear(f"{layer}.gate", x, o.hidden, 2 * o.hidden)
        up = self.linear(f"{layer}.up", x, o.hidden, 2 * o.hidden)
        active = self.op("Mul", [self.op("Mul", [gate, self.op("Sigmoid", [gate])]), up])
        down = self.linear(f"{layer}.down", active, 2 * o.hidden, o.hidden)
        return down if fused else self.op("Add", [hidden, down])

    def lm_head(self, x: str) -> str:
        o = self.o
        if self.f.kept_logits:
            start = self.op("Unsqueeze", [self.op("Neg", ["num_logits_to_keep"]), self.vector(0)])
            x = self.op("Slice", [x, start, self.vector(2**63 - 1), self.vector(1)])
        elif self.f.last_logits:
            x = self.op("Slice", [x, self.vector(-1), self.vector(2**63 - 1), self.vector(1)])
        return self.linear("lm_head", x, o.hidden, o.vocab_size)

    # Attention.

    def attention(self, layer: int, x: str) -> str:
        o, f = self.o, self.f
        heads, kv_heads, size = o.num_heads, 2, 16
        if f.attention == "scatter" and f.layout == "bsh":
            return super().attention(layer, x)
        widths = [heads * size, kv_heads * size, kv_heads * size]
        if f.packed and f.attention == "grouped" and f.rotary == "inside":
            weight = np.concatenate([self.random_array(o.hidden, width, scale=o.hidden**-0.5) for width in widths], 1)
            mixed = self._grouped(layer, self.linear(f"{layer}.qkv", x, o.hidden, sum(widths), weight=weight), "", "")
        else:
            q, k, v = (
                self.linear(f"{layer}.{kind}", x, o.hidden, width) for kind, width in zip("qkv", widths, strict=True)
            )
            if f.rotary == "contrib":
                q, k = (self._contrib_rotary(part, count) for part, count in ((q, heads), (k, kv_heads)))
            if f.attention in ("grouped", "multi-head") and f.rotary in ("contrib", "inside"):
                mixed = self._grouped(layer, q, k, v) if f.attention == "grouped" else self._multi_head(layer, q, k, v)
            else:
                q, k = self.split(q, heads, size), self.split(k, kv_heads, size)
                v = self.split(v, kv_heads, size)
                if f.rotary != "contrib":
                    q, k = self.rotate(q, heads, size), self.rotate(k, kv_heads, size)
                mixed = getattr(self, f"_{o.style}")(layer, q, k, v)
        return self.linear(f"{layer}.o", mixed, o.num_heads * size, o.hidden)

    def attention_bias(self) -> str:
        keep = super().attention_bias()
        if self.f.window is None or self.o.style not in ("decomposed", "concat_nodes"):
            return keep
        total = self.op("Add", [self.past_length, self.length])
        keys = self.op("Range", [self.number(0), total, self.number(1)])
        queries = self.op("Unsqueeze", [self.op("Range", [self.past_length, total, self.number(1)]), self.vector(1)])
        near = self.op("Less", [self.op("Sub", [queries, keys]), self.number(self.f.window)])
        return self.op("And", [keep, self.op("Unsqueeze", [near, self.vector(0, 1)])])

    def _tables(self) -> list[str]:
        angles = np.arange(self.o.max_positions)[:, None] * _BASE ** (-np.arange(0, 16, 2) / 16)
        return [self.constant(f"{f.__name__}_cache", f(angles).astype(self.dtype)) for f in (np.cos, np.sin)]

    def _contrib_rotary(self, x: str, heads: int) -> str:
        inputs = [x, self.position_ids, *self._tables()]
        return self.op("RotaryEmbedding", inputs, domain="com.microsoft", num_heads=heads, interleaved=0)

    def _grouped(self, layer: int, q: str, k: str, v: str) -> str:
        if not hasattr(self, "seqlens"):
            self.seqlens = self.shared_lengths()
        inside = self.f.rotary == "inside"
        name = f"/model/layers.{layer}/attn/GroupQueryAttention/output_0"
        attributes: dict[str, Any] = {"num_heads": self.o.num_heads, "kv_num_heads": 2, "do_rotary": int(inside)}
        attributes |= {"rotary_interleaved": 0, "scale": 16**-0.5, "softcap": 0.0}
        known = self.f.window if self.f.window_in_graph else None
        attributes["local_window_size"] = known or -1
        if self.f.window_buffer:
            attributes["sliding_window_cache"] = 1
        inputs = [q, k, v, *self.pasts[layer], *self.seqlens, *(self._tables() if inside else ())]
        outputs = [name, f"present.{layer}.key", f"present.{layer}.value"]
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention", inputs, outputs, name=f"gqa_{layer}", domain="com.microsoft", **attributes
            )
        )
        return name

    def _multi_head(self, layer: int, q: str, k: str, v: str) -> str:
        """Keys and values are repeated before the operator, which has as many of them as queries."""
        k, v = (self.split(part, 2, 16) for part in (k, v))
        key, value = self.appended(layer, k, v)
        wide = [self.repeat(part, 2, 16) for part in (key, value)]
        zero, low = (self.constant(key, np.array(value, self.dtype)) for key, value in (("zero", 0), ("low", -30000)))
        bias = self.op("Where", [self.bias, zero, low])
        name = f"mha_{layer}"
        self.nodes.append(
            helper.make_node(
                "MultiHeadAttention",
                [q, *wide, "", "", bias],
                [name],
                name=f"node_{name}",
                domain="com.microsoft",
                num_heads=self.o.num_heads,
            )
        )
        return name


def greedy_tokens(decoder: PublishedDecoder, prompt: Sequence[int], steps: int) -> tuple[list[int], float]:
    """Greedy decoding in float64, without a cache.

    Returns:
        The tokens, and the smallest margin between the two likeliest, as a part of the largest logit.
    """
    tokens, made, margin = list(prompt), [], np.inf
    for _ in range(steps):
        logits = _forward(decoder.real, decoder.o, tokens, decoder.f.window)
        second, first = np.sort(logits)[-2:]
        margin = min(margin, (first - second) / np.abs(logits).max())
        made.append(int(logits.argmax()))
        tokens.append(made[-1])
    return made, float(margin)


def _forward(real: Real, o: ModelOptions, tokens: Sequence[int], window: int | None) -> np.ndarray:
    """Logits after the last token."""
    matrices, norms = real.matrices, real.norms
    length, heads, kv_heads, size = len(tokens), o.num_heads, 2, 16
    places = np.arange(length)
    seen = places[None] <= places[:, None]
    if window is not None:
        seen &= places[:, None] - places[None] < window
    angles = places[:, None] * _BASE ** (-np.arange(0, size, 2) / size)

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * norms[name]

    def rotated(x: np.ndarray) -> np.ndarray:
        one, two = x[..., : size // 2], x[..., size // 2 :]
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([one * cos - two * sin, two * cos + one * sin], -1)

    x = matrices["model.embed_tokens.weight"][list(tokens)]
    for layer in range(o.layers):
        y = normed(x, f"{layer}.attention")
        if f"{layer}.qkv" in matrices:
            q, k, v = np.split(y @ matrices[f"{layer}.qkv"], [heads * size, (heads + kv_heads) * size], axis=-1)
        else:
            q, k, v = (y @ matrices[f"{layer}.{kind}"] for kind in "qkv")
        q, k = rotated(q.reshape(length, heads, size)), rotated(k.reshape(length, kv_heads, size))
        k, v = (np.repeat(part.reshape(length, kv_heads, size), heads // kv_heads, axis=1) for part in (k, v))
        scores = np.where(seen, np.einsum("shd,thd->hst", q, k) * size**-0.5, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hst,thd->shd", weights, v).reshape(length, -1) @ matrices[f"{layer}.o"]
        y = normed(x, f"{layer}.mlp")
        gate = y @ matrices[f"{layer}.gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ matrices[f"{layer}.up"])) @ matrices[f"{layer}.down"]
    return normed(x[-1:], "final")[0] @ matrices["lm_head"]


def _onnx_type(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _rename(model: onnx.ModelProto, names: tuple[str, str]) -> None:
    """Gives the cache the names of another exporter."""
    renamed: Mapping[str, str] = {
        before.format(layer, kind): after.format(layer, kind)
        for before, after in zip(Form.names, names, strict=True)
        for layer in range(2)
        for kind in ("key", "value")
    }
    for value in (*model.graph.input, *model.graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = renamed.get(name, name)


def with_clear_tokens(form: Form, prompt: Sequence[int], steps: int, *, margin: float) -> PublishedDecoder:
    """The first of the seeds whose greedy tokens rounding cannot change."""
    for seed in range(200):
        decoder = PublishedDecoder(replace(form, seed=seed))
        decoder.model = decoder.build()
        if greedy_tokens(decoder, prompt, steps)[1] >= margin:
            return decoder
    raise AssertionError(f"no seed gives clear tokens for {form}")
