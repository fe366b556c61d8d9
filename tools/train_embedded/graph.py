# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Build the standard ONNX graph of the embedded model: opset 24, nothing but the default domain.

The cache is written by TensorScatter and read by Attention with ``nonpad_kv_seqlen``; the weights are int8
with one scale for each block (DequantizeLinear in front of MatMul).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tools.train_embedded.model import Config, Decoder, rope_tables
from tools.train_embedded.quantize import Quantized

OPSET = 24
IR_VERSION = 11
POSITIONS = 2048


class _Builder:
    """A tape of nodes with a few helpers for weights and shapes."""

    def __init__(self, matrices: dict[str, Quantized]) -> None:
        self.tape = ir.tape.Tape()
        self.matrices = matrices

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        return self.tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name=name)

    def table(self, name: str) -> tuple[ir.Value, ir.Value, int]:
        """Store a quantized matrix once and return its values, its scales and the block size."""
        matrix = self.matrices[name]
        return self.constant(name, matrix.values), self.constant(f"{name}.scale", matrix.scales), matrix.block

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        """Multiply by a quantized matrix."""
        values, scales, block = self.table(name)
        stem = name.removesuffix(".weight")
        weight = self.tape.op(
            "DequantizeLinear", [values, scales], {"axis": 0, "block_size": block}, name=f"{stem}.dequantize"
        )
        return self.tape.op("MatMul", [x, weight], name=f"{stem}.matmul")

    def norm(self, x: ir.Value, name: str, weight: npt.NDArray[np.float32], epsilon: float) -> ir.Value:
        scale = self.constant(f"{name}.weight", weight)
        return self.tape.op("RMSNormalization", [x, scale], {"axis": -1, "epsilon": epsilon}, name=name)

    def heads(self, x: ir.Value, shape: ir.Value, name: str) -> ir.Value:
        """Turn (batch, sequence, heads * size) into (batch, heads, sequence, size)."""
        split = self.tape.op("Reshape", [x, shape], name=f"{name}.split")
        return self.tape.op("Transpose", [split], {"perm": [0, 2, 1, 3]}, name=f"{name}.to_heads")


def _input(name: str, kind: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))


def _rename(value: ir.Value, name: str, kind: ir.DataType, shape: list[int | str]) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(kind), ir.Shape(shape)
    return value


def build(model: Decoder, matrices: dict[str, Quantized]) -> ir.Model:
    """Return the ONNX model of a decoder with quantized matrices."""
    c: Config = model.config
    b = _Builder(matrices)
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    int64, float32 = ir.DataType.INT64, ir.DataType.FLOAT
    ids = _input("input_ids", int64, ["batch", "sequence"])
    positions = _input("position_ids", int64, ["batch", "sequence"])
    write = _input("write_indices", int64, ["batch"])
    nonpad = _input("nonpad_kv_seqlen", int64, ["batch"])
    cache_shape: list[int | str] = ["batch", c.kv_heads, "capacity", c.head_dim]
    keys = [_input(f"key_cache.{i}", float32, cache_shape) for i in range(c.layers)]
    values = [_input(f"value_cache.{i}", float32, cache_shape) for i in range(c.layers)]

    cos, sin = rope_tables(c, POSITIONS)
    cos_cache, sin_cache = b.constant("cos_cache", cos.numpy()), b.constant("sin_cache", sin.numpy())
    q_shape = b.constant("q_shape", np.array([0, 0, c.heads, c.head_dim], np.int64))
    kv_shape = b.constant("kv_shape", np.array([0, 0, c.kv_heads, c.head_dim], np.int64))
    flat_shape = b.constant("flat_shape", np.array([0, 0, c.heads * c.head_dim], np.int64))

    # the table is laid out for the LM head; only the columns that are looked up are dequantized here
    table, scales, block = b.table("embedding.weight")
    picked = b.tape.op("Gather", [table, ids], {"axis": 1}, name="embedding.gather")
    picked_scales = b.tape.op("Gather", [scales, ids], {"axis": 1}, name="embedding.gather_scales")
    embedded = b.tape.op(
        "DequantizeLinear", [picked, picked_scales], {"axis": 0, "block_size": block}, name="embedding.dequantize"
    )
    x = b.tape.op("Transpose", [embedded], {"perm": [1, 2, 0]}, name="embedding.transpose")

    outputs: list[ir.Value] = []
    for i in range(c.layers):
        p = f"blocks.{i}"
        h = b.norm(x, f"{p}.input_norm", state[f"{p}.input_norm.weight"], c.epsilon)
        q = b.heads(b.linear(h, f"{p}.q_proj.weight"), q_shape, f"{p}.q")
        k = b.heads(b.linear(h, f"{p}.k_proj.weight"), kv_shape, f"{p}.k")
        v = b.heads(b.linear(h, f"{p}.v_proj.weight"), kv_shape, f"{p}.v")
        q = b.tape.op("RotaryEmbedding", [q, cos_cache, sin_cache, positions], name=f"{p}.q_rotary")
        k = b.tape.op("RotaryEmbedding", [k, cos_cache, sin_cache, positions], name=f"{p}.k_rotary")
        scatter: dict[str, int | str] = {"axis": 2, "mode": "linear"}
        all_k = b.tape.op("TensorScatter", [keys[i], k, write], scatter, name=f"{p}.key_scatter")
        all_v = b.tape.op("TensorScatter", [values[i], v, write], scatter, name=f"{p}.value_scatter")
        outputs.append(_rename(all_k, f"updated_key_cache.{i}", float32, cache_shape))
        outputs.append(_rename(all_v, f"updated_value_cache.{i}", float32, cache_shape))
        a = b.tape.op("Attention", [q, all_k, all_v, None, None, None, nonpad], {"is_causal": 1}, name=f"{p}.attention")
        a = b.tape.op("Transpose", [a], {"perm": [0, 2, 1, 3]}, name=f"{p}.from_heads")
        a = b.tape.op("Reshape", [a, flat_shape], name=f"{p}.merge")
        x = b.tape.op("Add", [x, b.linear(a, f"{p}.o_proj.weight")], name=f"{p}.attention_add")
        h = b.norm(x, f"{p}.post_norm", state[f"{p}.post_norm.weight"], c.epsilon)
        gate = b.linear(h, f"{p}.gate_proj.weight")
        gate = b.tape.op("Mul", [gate, b.tape.op("Sigmoid", [gate], name=f"{p}.sigmoid")], name=f"{p}.silu")
        h = b.tape.op("Mul", [gate, b.linear(h, f"{p}.up_proj.weight")], name=f"{p}.gated")
        x = b.tape.op("Add", [x, b.linear(h, f"{p}.down_proj.weight")], name=f"{p}.ffn_add")
    x = b.norm(x, "norm", state["norm.weight"], c.epsilon)
    head = b.tape.op("DequantizeLinear", [table, scales], {"axis": 0, "block_size": block}, name="lm_head.dequantize")
    logits = b.tape.op("MatMul", [x, head], name="lm_head.matmul")
    _rename(logits, "logits", float32, ["batch", "sequence", c.vocab_size])

    order = [cache for pair in zip(keys, values, strict=True) for cache in pair]
    graph = ir.Graph(
        [ids, positions, write, nonpad, *order], [logits, *outputs], nodes=b.tape.nodes,
        initializers=tuple(b.tape.initializers), opset_imports={"": OPSET}, name="onnx-prose",
    )  # fmt: skip
    return ir.Model(
        graph, ir_version=IR_VERSION, producer_name="genai-iface tools/train_embedded",
        doc_string="Small decoder trained on documentation text; see PROVENANCE.md.",
        metadata_props={"license": "Apache-2.0"},
    )  # fmt: skip
