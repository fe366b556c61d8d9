# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The method "convert": a plain export with growing past/present tensors, rewritten to TensorScatter.

The longest way, for networks that compute attention by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from genai_iface.build._network_cache import cache_keyword, cache_of
from genai_iface.build.checkpoint import quiet_transformers
from genai_iface.build.methods.export import traced
from genai_iface.build.methods.fuse_standard import fuse_standard
from genai_iface.build.methods.rotary_context import fixed_rotary
from genai_iface.build.methods.standard_attention import LayerShape
from genai_iface.build.methods.step.dense_experts import dense_experts
from genai_iface.build.methods.step.positions import first_position
from genai_iface.errors import UnsupportedModelError
from genai_iface.graph import derive_signature
from genai_iface.transform.convert._mask_probe import position_limit, window_sizes
from genai_iface.transform.convert.scatter_cache import to_scatter
from genai_iface.transform.fuse.rotary_tables import RotaryTables
from genai_iface.types import CacheLayout

__all__ = ["export_and_convert", "exportable_attention", "scattered"]

_PLAIN_OPSET = 23  # the first with Attention, and the last at which exporters are well tried
_BATCH, _SEQUENCE, _PAST = 2, 3, 4


def export_and_convert(network: Any, *, layout: CacheLayout = "bnsh", context: int | None = None) -> ir.Model:
    """Exports a network with past/present tensors and rewrites its cache.

    Args:
        network: A Transformers decoder in evaluation mode.
        layout: Only "bnsh": Transformers keeps heads apart.
        context: The most tokens of a sequence, None for what the checkpoint says.

    Raises:
        UnsupportedModelError: It cannot be exported, or its cache cannot be rewritten.
    """
    if layout != "bnsh":
        raise UnsupportedModelError(
            'The method "convert" gives the layout bnsh only', remedy="Leave --layout out, or take --via mobius."
        )
    with (
        quiet_transformers(),
        exportable_attention(network),
        fixed_rotary(network, context),
        dense_experts(network),
    ):
        shapes = _layer_shapes(network)
        model = traced(_PlainStep(network), *_arguments(shapes, network.dtype), opset=_PLAIN_OPSET)
    _name(model, len(shapes))
    return scattered(model, network, context)


def scattered(model: ir.Model, network: Any, context: int | None) -> ir.Model:
    """A past/present graph of a network with TensorScatter, its norms and rotations fused.

    Raises:
        UnsupportedModelError: Its cache cannot be rewritten.
    """
    said = network.config.to_dict()
    converted = to_scatter(model, numbers=window_sizes(said), limit=position_limit(said)).model
    fuse_standard(converted)
    rows = context or getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if rows is not None:
        RotaryTables(derive_signature(converted), rows)(converted)
    return converted


class _PlainStep(torch.nn.Module):
    """One step as published models have it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self._first = first_position(network)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        for index, (keys, values) in enumerate(past):
            cache.update(keys, values, index)
        output = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids + self._first,
            **cache_keyword(self.network, cache),
            use_cache=True,
        )
        present = cache_of(output).layers
        return output.logits, *(tensor for layer in present for tensor in (layer.keys, layer.values))


@contextmanager
def exportable_attention(network: Any) -> Iterator[None]:
    """With scaled_dot_product_attention, which exports as Attention; plain arithmetic where there is no such form."""
    before = network.config._attn_implementation
    try:
        network.set_attn_implementation("sdpa")
    except ValueError:
        network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def _layer_shapes(network: Any) -> list[LayerShape]:
    with torch.no_grad():
        output = network(input_ids=torch.tensor([[1, 2]]), use_cache=True)
    layers = getattr(cache_of(output), "layers", [])
    if not layers or not all(isinstance(layer, DynamicLayer) for layer in layers):
        raise UnsupportedModelError(
            f"{type(network).__name__} does not keep a plain cache of keys and values",
            remedy="Try another method: --via export or --via mobius.",
        )
    return [LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers]


def _arguments(shapes: Sequence[LayerShape], dtype: torch.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example inputs of a step, and which of their axes are free."""
    past = [
        (
            torch.zeros(_BATCH, shape.num_heads, _PAST, shape.key_size, dtype=dtype),
            torch.zeros(_BATCH, shape.num_heads, _PAST, shape.value_size, dtype=dtype),
        )
        for shape in shapes
    ]
    ids = torch.ones(_BATCH, _SEQUENCE, dtype=torch.int64)
    mask = torch.ones(_BATCH, _PAST + _SEQUENCE, dtype=torch.int64)
    mask[0, 0] = 0  # a mask of ones would be taken for none
    positions = torch.arange(_PAST, _PAST + _SEQUENCE)[None].expand(_BATCH, _SEQUENCE).contiguous()
    free = torch.export.Dim.DYNAMIC
    step = {0: free, 1: free}
    return (ids, mask, positions, past), (step, step, step, [({0: free, 2: free},) * 2 for _ in shapes])


def _name(model: ir.Model, layers: int) -> None:
    names = [f"{index}.{kind}" for index in range(layers) for kind in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    for values, given in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, name in zip(values, given, strict=True):
            value.name = name
