# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The standard form: TensorScatter into Attention with nonpad_kv_seqlen, opset 24."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from genai_iface.conformance.decoder.reference import EPSILON
from tools.golden_models.builder import Builder

__all__ = ["ScatterBuilder"]


class ScatterBuilder(Builder):
    """Writes the layouts "bnsh" and "bsh", linear and circular."""

    def begin(self, ids: str) -> None:
        """Adds write_indices, nonpad_kv_seqlen, caches and positions."""
        plan = self.plan
        self.write_indices = self.input("write_indices", TensorProto.INT64, ["batch"])
        if plan.is_masked:
            self.positions = self.input("position_ids", TensorProto.INT64, ["batch", "sequence"])
            mask = self.input("attention_mask", TensorProto.INT64, ["batch", "total"])
            nonpad = self.op("ReduceSum", [mask, self.ints(1)], keepdims=0)
        else:
            nonpad = self.input("nonpad_kv_seqlen", TensorProto.INT64, ["batch"])
        shapes = [self._cache_shape(plan.window_of(layer)) for layer in range(plan.layers)]
        self.pasts = [
            [self.cache_tensor(layer, kind, shape, shape) for kind in ("key", "value")]
            for layer, shape in enumerate(shapes)
        ]
        # A ring that has wrapped is valid everywhere.
        self.nonpad = {
            window: self.op("Min", [nonpad, self.ints(window)]) if window else nonpad
            for window in dict.fromkeys(plan.window_of(layer) for layer in range(plan.layers))
        }
        if plan.is_masked:
            return
        steps = self.op("Range", [self.number(0), self.length(ids, 1), self.number(1)])
        self.positions = self.op("Add", [self.op("Unsqueeze", [self.write_indices, self.ints(1)]), steps])

    def _cache_shape(self, window: int | None) -> list[str | int]:
        plan = self.plan
        positions = window or plan.fixed_capacity or "capacity"
        if plan.layout == "bsh":
            return ["batch", positions, plan.num_kv_heads * plan.head_dim]
        return ["batch", plan.num_kv_heads, positions, plan.head_dim]

    def norm(self, name: str, x: str) -> str:
        """RMSNormalization."""
        return self.op("RMSNormalization", [x, self.weight(name)], axis=-1, epsilon=EPSILON)

    def attention(self, layer: int, x: str) -> str:
        """RotaryEmbedding, TensorScatter, Attention."""
        plan = self.plan
        q, k, v = (self.linear(f"{layer}.{name}", x) for name in "qkv")
        heads = {"q": plan.num_heads, "k": plan.num_kv_heads}
        if plan.layout == "bnsh":
            q, k, v = self.split(q, heads["q"]), self.split(k, heads["k"]), self.split(v, heads["k"])
        q, k = self._rotate(q, heads["q"]), self._rotate(k, heads["k"])
        keys, values = (
            self.op(
                "TensorScatter",
                [past, new, self.write_indices],
                out=f"present.{layer}.{kind}",
                axis=2 if plan.layout == "bnsh" else 1,
                mode="circular" if plan.window else "linear",
            )
            for past, new, kind in zip(self.pasts[layer], (k, v), ("key", "value"), strict=True)
        )
        attributes: dict[str, Any] = {"is_causal": 1}
        if plan.softcap:
            attributes["softcap"] = plan.softcap
        if plan.layout == "bsh":
            attributes |= {"q_num_heads": plan.num_heads, "kv_num_heads": plan.num_kv_heads}
        mixed = self.op("Attention", [q, keys, values, "", "", "", self.nonpad[plan.window_of(layer)]], **attributes)
        return self.merge(mixed) if plan.layout == "bnsh" else mixed

    def _rotate(self, x: str, heads: int) -> str:
        plan = self.plan
        attributes: dict[str, Any] = {}
        if plan.rotary_dim is not None:
            attributes["rotary_embedding_dim"] = plan.rotary_dim
        if plan.layout == "bsh" or attributes:
            attributes["num_heads"] = heads
        return self.op("RotaryEmbedding", [x, *self.tables, self.positions], **attributes)
