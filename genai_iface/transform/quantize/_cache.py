# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Caches of int8: QuantizeLinear before TensorScatter, DequantizeLinear after it, with constant scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import describe, input_at, is_op, trace_back
from genai_iface.graph.signature import CacheTensor, GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["CacheRange", "KVScales", "QuantizeCache", "check_cache"]

KVScales: TypeAlias = Literal["auto", "head", "channel"]
"""What shares a scale: all of a head, one channel, or of the two what gives a tensor the smaller steps."""

_HIGHEST = 127
_FLOATS = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
# Scales have to survive float16.
_SMALLEST_RANGE = 1e-3


@dataclass(frozen=True, slots=True)
class CacheRange:
    """The largest magnitudes seen in the cache of one layer.

    Attributes:
        key: float32 (Hkv, D).
        value: float32 (Hkv, Dv).
    """

    key: NDArray[np.float32]
    value: NDArray[np.float32]


class QuantizeCache(Rewrite):
    """The cache tensors of a TensorScatter model become int8, a quarter of float32.

    New keys and values are rounded before they are written, and the buffer is dequantized before
    attention reads it; what exceeds the range is clipped. All operators are standard.

    Precondition: style "scatter", and every reader of the cache comes after its TensorScatter.

    Args:
        signature: The graph's signature.
        ranges: One per layer, from a run over text.
        scales: What shares a scale. With rank-3 caches, (B, C, Hkv * D), "channel" means each channel
            of each head; with rank 4 the standard's scales have one axis, so heads share them.

    Raises:
        UnsupportedModelError: The cache is of another style, or int8 already.
        InvalidInputError: The ranges do not fit the cache.
    """

    name = "quantize-cache"

    def __init__(self, signature: GraphSignature, ranges: Sequence[CacheRange], *, scales: KVScales = "auto") -> None:
        super().__init__()
        check_cache(signature)
        layers = signature.cache.layers
        for index, (layer, seen) in enumerate(zip(layers, ranges, strict=True)):
            wanted = (layer.num_kv_heads, layer.key_head_dim), (layer.num_kv_heads, layer.value_head_dim)
            if (seen.key.shape, seen.value.shape) != wanted:
                raise InvalidInputError(
                    f"Layer {index} has ranges of shape {seen.key.shape} and {seen.value.shape}, expected {wanted}",
                    remedy="Take them from the same model: calibrate(...).",
                )
        self._signature = signature
        self._ranges = tuple(ranges)
        self._scales = scales
        self._chosen: list[str] = []

    def rewrite(self, model: ir.Model) -> Note:
        """Rewrites all layers.

        Raises:
            UnsupportedModelError: A cache has a reader that its TensorScatter does not feed.
        """
        values = ir.convenience.create_value_mapping(model.graph)
        edit = Editor(model.graph, "quantized")
        for tensor in self._signature.cache_tensors:
            self._quantize(edit, tensor, values[tensor.past], values[tensor.present])
        count = len(self._signature.cache_tensors)
        kinds = [f"{self._chosen.count(kind)} with a scale for each {kind}" for kind in dict.fromkeys(self._chosen)]
        return self.said(count, f"{count} cache tensors to int8, {' and '.join(kinds)}")

    def _quantize(self, edit: Editor, tensor: CacheTensor, past: ir.Value, present: ir.Value) -> None:
        written = trace_back(present, ("Identity",))
        scatter = None if written is None else written.producer()
        update = None if scatter is None else input_at(scatter, 1)
        if written is None or scatter is None or update is None or not is_op(scatter, "TensorScatter"):
            raise UnsupportedModelError(f"{tensor.present!r} is written by no TensorScatter", remedy=_REMEDY)
        for reader, index in past.uses():
            if reader is not scatter and not is_op(reader, "Shape"):
                raise UnsupportedModelError(
                    f"The {describe(reader)} reads {tensor.past!r} (input {index}) before it is written",
                    remedy=_REMEDY,
                )
        readers = [(node, index) for node, index in written.uses() if not is_op(node, "Identity", "Shape")]
        identities = [node.outputs[0] for node, _ in written.uses() if is_op(node, "Identity")]
        readers += [use for value in identities for use in value.uses() if not is_op(use.node, "Shape")]
        dtype = _FLOATS[self._signature.cache.layers[tensor.layer].dtype]
        axis, scales = self._scale(tensor, dtype)
        scale = edit.weight(f"{tensor.past}.scales", ir.Tensor(scales))
        zero = edit.weight(f"{tensor.past}.zero_points", ir.Tensor(np.zeros(len(scales), np.int8)))
        attributes: dict[str, Any] = {"axis": axis}
        (rounded,) = edit.before(scatter, "QuantizeLinear", [update, scale, zero], attributes)
        rounded.dtype, rounded.shape = ir.DataType.INT8, update.shape
        scatter.replace_input_with(1, rounded)
        (wide,) = edit.after(scatter, "DequantizeLinear", [written, scale, zero], attributes)
        wide.dtype, wide.shape = dtype, written.shape
        for node, index in readers:
            node.replace_input_with(index, wide)
        for value in (past, written, present, *identities):
            value.dtype = ir.DataType.INT8

    def _scale(self, tensor: CacheTensor, dtype: ir.DataType) -> tuple[int, NDArray[Any]]:
        """The axis of the scales and the scales."""
        seen: NDArray[np.float32] = getattr(self._ranges[tensor.layer], tensor.kind)
        heads, size = seen.shape
        is_flat = self._signature.cache.layout == "bsh"
        by_head, by_channel = seen.max(axis=1), seen.reshape(-1) if is_flat else seen.max(axis=0)
        kind = self._scales
        if kind == "auto":
            # The mean squared error of rounding goes with the square of the step.
            wide = float((by_head**2).sum()) * size
            fine = float((by_channel**2).sum()) * (1 if is_flat else heads)
            kind = "head" if wide <= fine else "channel"
        self._chosen.append(kind)
        if is_flat:
            axis, ranges = 2, np.repeat(by_head, size) if kind == "head" else by_channel
        else:
            axis, ranges = (1, by_head) if kind == "head" else (3, by_channel)
        scales: NDArray[Any] = (np.maximum(ranges, _SMALLEST_RANGE) / _HIGHEST).astype(dtype.numpy())
        return axis, scales


_REMEDY = "Quantize the weights only, or export the model again with one TensorScatter for each cache tensor."


def check_cache(signature: GraphSignature) -> None:
    """Raises UnsupportedModelError unless the cache can become int8."""
    if signature.cache.style != "scatter":
        raise UnsupportedModelError(
            f"The cache is of style {signature.cache.style!r}; only TensorScatter caches become int8",
            remedy="Rewrite the model with genai-iface convert first, or leave --kv-cache out.",
        )
    if any(layer.dtype == "int8" for layer in signature.cache.layers):
        raise UnsupportedModelError("The cache is int8 already", remedy="Leave --kv-cache out.")
