# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Past/present decoders with masks and forms that ``tests.models`` does not write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.models import ModelOptions, _Builder

__all__ = ["MaskedBuilder", "masked_model"]


class MaskedBuilder(_Builder):
    """A decoder of style "concat_nodes" or "decomposed" whose mask is of one kind.

    Args:
        options: The model.
        mask: "causal"; "window": ``size`` keys; "chunk": keys of the query's own chunk of ``size``; "ahead": every
            query also sees the next key; "bias": causal, less a little for each key of distance.
        size: See there.
        spelling: "bool"; "float": minus infinity; "finite": -10000, as older exporters write it.
        kinds: One mask for each layer, in the place of ``mask``.
    """

    def __init__(self, options: ModelOptions, mask: str, size: int, spelling: str, kinds: tuple[str, ...]) -> None:
        super().__init__(options)
        self.kinds, self.size, self.spelling = kinds or (mask,) * options.layers, size, spelling

    def attention_bias(self) -> str:
        total = self.op("Add", [self.past_length, self.length])
        keys = self.op("Range", [self.number(0), total, self.number(1)])
        queries = self.op("Unsqueeze", [self.op("Range", [self.past_length, total, self.number(1)]), self.vector(1)])
        distance = self.op("Sub", [queries, keys])
        self.biases = [self._one(kind, keys, queries, distance) for kind in self.kinds]
        return self.biases[0]

    def _one(self, kind: str, keys: str, queries: str, distance: str) -> str:
        size = self.number(self.size)
        lowest = self.number(-1) if kind == "ahead" else self.number(0)
        seen = self.op("GreaterOrEqual", [distance, lowest])
        if kind == "window":
            seen = self.op("And", [seen, self.op("Less", [distance, size])])
        elif kind == "chunk":
            same = self.op("Equal", [self.op("Div", [queries, size]), self.op("Div", [keys, size])])
            seen = self.op("And", [seen, same])
        if kind != "bias" and self.spelling == "bool":
            return self.op("Unsqueeze", [seen, self.vector(0, 1)])
        hidden = self.constant("hidden", np.array(-1e4 if self.spelling == "finite" else -np.inf, self.dtype))
        zero = self.constant("zero", np.array(0, self.dtype))
        if kind == "bias":
            zero = self.op("Mul", [self.op("Cast", [distance], to=TensorProto.FLOAT), self.scalar(-0.25)])
        return self.op("Unsqueeze", [self.op("Where", [seen, zero, hidden]), self.vector(0, 1)])

    def attention(self, layer: int, x: str) -> str:
        self.bias = self.biases[layer]
        return super().attention(layer, x)

    def op(self, kind: str, inputs: Any, **more: Any) -> str:
        # The scores' mask of the decomposed form is added where it is not a boolean.
        if kind == "Where" and inputs[0] in getattr(self, "biases", ()) and self.spelling != "bool":
            return super().op("Add", [inputs[1], inputs[0]], **more)
        return super().op(kind, inputs, **more)


def masked_model(
    mask: str = "causal", *, size: int = 4, spelling: str = "bool", kinds: tuple[str, ...] = (), **options: Any
) -> onnx.ModelProto:
    """The graph; ``options`` are those of ``ModelOptions``."""
    fields = {"style": "concat_nodes", "attention_mask": False, **options}
    model = MaskedBuilder(ModelOptions(**fields), mask, size, spelling, kinds).build()
    onnx.checker.check_model(model)
    return model
