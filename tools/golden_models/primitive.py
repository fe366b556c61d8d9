# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The form that exporters wrote for years: past and present grow by Concat, primitive operators, opset 18."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from genai_iface.conformance.decoder.reference import EPSILON
from tools.golden_models.builder import Builder
from tools.golden_models.numpy_dtypes import NUMPY_DTYPES

__all__ = ["ConcatBuilder"]

_HIDDEN = -1e30


class ConcatBuilder(Builder):
    """Writes a graph that any runtime with opset 18 can run. The cache layout is "bnsh"."""

    opset = 18

    def begin(self, ids: str) -> None:
        """Adds caches, positions and the causal mask."""
        plan = self.plan
        past: list[str | int] = ["batch", plan.num_kv_heads, "past", plan.head_dim]
        present: list[str | int] = ["batch", plan.num_kv_heads, "total", plan.head_dim]
        self.pasts = [
            [self.cache_tensor(layer, kind, past, present) for kind in ("key", "value")] for layer in range(plan.layers)
        ]
        num_past = self.length(self.pasts[0][0], 2)
        total = self.op("Add", [num_past, self.length(ids, 1)])
        places = self.op("Range", [num_past, total, self.number(1)])
        self.positions = (
            self.input("position_ids", TensorProto.INT64, ["batch", "sequence"]) if plan.is_masked else places
        )
        keys = self.op("Range", [self.number(0), total, self.number(1)])
        visible = self.op("LessOrEqual", [keys, self.op("Unsqueeze", [places, self.ints(1)])])
        if plan.is_masked:
            mask = self.input("attention_mask", TensorProto.INT64, ["batch", "total"])
            valid = self.op("Unsqueeze", [self.op("Cast", [mask], to=TensorProto.BOOL), self.ints(1, 2)])
            visible = self.op("And", [visible, valid])
        self.bias = self.op("Where", [visible, self._scalar(0.0), self._scalar(_HIDDEN)])

    def norm(self, name: str, x: str) -> str:
        """RMS normalization, spelled out."""
        mean = self.op("ReduceMean", [self.op("Mul", [x, x]), self.ints(-1)], keepdims=1)
        root = self.op("Sqrt", [self.op("Add", [mean, self._scalar(EPSILON)])])
        return self.op("Mul", [self.op("Div", [x, root]), self.weight(name)])

    def attention(self, layer: int, x: str) -> str:
        """Rotation, Concat, MatMul, Softmax, MatMul."""
        plan = self.plan
        q, k, v = (self.linear(f"{layer}.{name}", x) for name in "qkv")
        q = self._rotate(self.split(q, plan.num_heads))
        k, v = self._rotate(self.split(k, plan.num_kv_heads)), self.split(v, plan.num_kv_heads)
        k, v = (
            self._repeat(self.op("Concat", [past, new], out=f"present.{layer}.{kind}", axis=2))
            for past, new, kind in zip(self.pasts[layer], (k, v), ("key", "value"), strict=True)
        )
        scores = self.op("MatMul", [q, self.op("Transpose", [k], perm=[0, 1, 3, 2])])
        scores = self.op("Mul", [scores, self._scalar(plan.head_dim**-0.5)])
        if plan.softcap:
            capped = self.op("Tanh", [self.op("Div", [scores, self._scalar(plan.softcap)])])
            scores = self.op("Mul", [capped, self._scalar(plan.softcap)])
        weights = self.op("Softmax", [self.op("Add", [scores, self.bias])], axis=-1)
        return self.merge(self.op("MatMul", [weights, v]))

    def _rotate(self, x: str) -> str:
        plan = self.plan
        size = plan.rotary_dim or plan.head_dim
        cos, sin = (self.op("Gather", [table, self.positions]) for table in self.tables)
        if plan.is_masked:
            cos, sin = (self.op("Unsqueeze", [table, self.ints(1)]) for table in (cos, sin))
        pieces = [(0, size // 2), (size // 2, size)] + ([(size, plan.head_dim)] if size < plan.head_dim else [])
        first, second, *rest = (
            self.op("Slice", [x, self.ints(begin), self.ints(end), self.ints(3)]) for begin, end in pieces
        )
        left = self.op("Sub", [self.op("Mul", [first, cos]), self.op("Mul", [second, sin])])
        right = self.op("Add", [self.op("Mul", [second, cos]), self.op("Mul", [first, sin])])
        return self.op("Concat", [left, right, *rest], axis=-1)

    def _repeat(self, x: str) -> str:
        """(batch, kv_heads, total, head_dim) to (batch, heads, total, head_dim)."""
        plan = self.plan
        group = plan.num_heads // plan.num_kv_heads
        if group == 1:
            return x
        wide = self.op("Expand", [self.op("Unsqueeze", [x, self.ints(2)]), self.ints(1, 1, group, 1, 1)])
        return self.op("Reshape", [wide, self.ints(0, plan.num_heads, -1, plan.head_dim)])

    def _scalar(self, value: float) -> str:
        name = f"scalar_{value}".replace("-", "m").replace(".", "p")
        return self.constant(name, np.array(value, NUMPY_DTYPES[self.dtype]))
