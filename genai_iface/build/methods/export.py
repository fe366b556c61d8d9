# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The method "export": torch.onnx.export of a network whose attention and cache are the standard operators.

The network is traced as it is, but for three things that Transformers lets one replace: the attention
function, the mask function and the cache.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from transformers.cache_utils import Cache

from genai_iface.build._network_cache import cache_keyword
from genai_iface.build.methods.fuse_standard import fuse_standard
from genai_iface.build.methods.names import name_parts
from genai_iface.build.methods.quick_matching import quick_matching
from genai_iface.build.methods.rotary_context import fixed_rotary
from genai_iface.build.methods.standard_attention import LayerShape, StandardAttention
from genai_iface.build.methods.standard_cache import OPSET, NewTokensLayer
from genai_iface.errors import GenAIError, UnsupportedModelError
from genai_iface.graph import derive_signature
from genai_iface.transform.fuse.rotary_tables import RotaryTables
from genai_iface.types import CacheLayout

__all__ = ["export_standard", "layer_shapes", "quiet_exporter", "traced"]

# Sizes of the traced step: no two alike and none 0 or 1, so that nothing is taken for a constant.
_BATCH, _SEQUENCE, _CAPACITY = 2, 3, 7


def export_standard(network: Any, *, layout: CacheLayout = "bnsh", context: int | None = None) -> ir.Model:
    """Traces a network into a graph with TensorScatter and Attention(nonpad_kv_seqlen).

    Args:
        network: A Transformers decoder in evaluation mode. It is given back as it was.
        layout: "bnsh" for caches (B, Hkv, C, D), "bsh" for (B, C, Hkv * D).
        context: Tokens that a sequence may have; decides between the two sets of frequencies of longrope.

    Returns:
        The model at opset 24: inputs input_ids (B, S), write_indices (B,), key_cache.i and value_cache.i of any
        capacity; outputs logits (B, S, V), updated_key_cache.i and updated_value_cache.i.

    Raises:
        UnsupportedModelError: The network computes attention by itself, keeps something else than keys and
            values, or cannot be traced.
    """
    attention = StandardAttention(layout)
    with attention.installed(network), fixed_rotary(network, context):
        shapes = layer_shapes(network, attention)
        arguments, dynamic = _arguments(shapes, layout, network.dtype)
        model = traced(_Step(network, attention), arguments, dynamic)
    _name(model, len(shapes))
    fuse_standard(model)
    _count_axes_from_the_front(model)
    rows = context or getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if rows is not None:
        RotaryTables(derive_signature(model), rows)(model)
    name_parts(model)
    return model


class _Step(torch.nn.Module):
    """One step as the graph has it: positions and lengths follow from write_indices."""

    def __init__(self, network: Any, attention: StandardAttention) -> None:
        super().__init__()
        self.network = network
        self._attention = attention

    def forward(
        self,
        input_ids: torch.Tensor,
        write_indices: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        positions = write_indices[:, None] + torch.arange(input_ids.shape[1])[None]
        self._attention.begin_step(positions, write_indices, keys, values)
        capacity = keys[0].shape[2 if keys[0].ndim == 4 else 1]
        # Layers that share the cache of another have none in Transformers; one too many does no harm.
        cache = Cache(layers=[NewTokensLayer(capacity) for _ in range(_num_layers(self.network))])
        output = self.network(
            input_ids=input_ids, position_ids=positions, **cache_keyword(self.network, cache), use_cache=True
        )
        return output.logits, *self._attention.written


def layer_shapes(network: Any, attention: StandardAttention) -> list[LayerShape]:
    """What each layer keeps, from a step of two tokens with the standard attention installed.

    Raises:
        UnsupportedModelError: The network computes attention by itself.
    """
    positions = torch.arange(2)[None]
    attention.begin_step(positions, torch.zeros(1, dtype=torch.int64))
    cache = Cache(layers=[NewTokensLayer(2) for _ in range(_num_layers(network))])
    problem = ""
    try:
        with torch.no_grad():
            network(
                input_ids=torch.tensor([[1, 2]]),
                position_ids=positions,
                **cache_keyword(network, cache),
                use_cache=True,
            )
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        # Older network classes expect a mask, or take no positions.
        problem = f": {' '.join(str(error).split())[:150]}"
    if problem or not attention.shapes:
        raise UnsupportedModelError(
            f"{type(network).__name__} computes attention by itself, not through Transformers' attention "
            f"interface{problem}",
            remedy="Try another method: --via convert or --via mobius.",
        )
    return attention.shapes


def _num_layers(network: Any) -> int:
    return int(network.config.get_text_config().num_hidden_layers)


def traced(
    module: torch.nn.Module, arguments: tuple[Any, ...], dynamic: tuple[Any, ...], *, opset: int = OPSET
) -> ir.Model:
    """torch.onnx.export, quietly, with one kind of error.

    Raises:
        UnsupportedModelError: The module cannot be traced or translated.
    """
    try:
        with quiet_exporter(), quick_matching(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(), arguments, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False
            )
    except (torch.onnx.OnnxExporterError, GenAIError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GenAIError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        deepest: BaseException = error
        while deepest.__cause__ is not None:
            deepest = deepest.__cause__
        lines = str(deepest).strip().splitlines() or [type(deepest).__name__]
        raise UnsupportedModelError(
            f"torch cannot export the network: {lines[0][:200]}",
            remedy="Try another method (--via mobius or --via convert); --debug shows the whole story.",
        ) from error
    model: ir.Model = program.model
    return model


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks about packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _arguments(
    shapes: Sequence[LayerShape], layout: CacheLayout, dtype: torch.dtype
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example inputs of a step, and which of their axes are free."""
    batch, sequence, capacity = (torch.export.Dim(name) for name in ("batch", "sequence", "capacity"))

    def buffer(heads: int, size: int) -> torch.Tensor:
        shape = (_BATCH, heads, _CAPACITY, size) if layout == "bnsh" else (_BATCH, _CAPACITY, heads * size)
        return torch.zeros(shape, dtype=dtype)

    keys = [buffer(shape.num_heads, shape.key_size) for shape in shapes]
    values = [buffer(shape.num_heads, shape.value_size) for shape in shapes]
    ids = torch.ones(_BATCH, _SEQUENCE, dtype=torch.int64)
    write_indices = torch.tensor([1, 2])
    axes = {0: batch, 2 if layout == "bnsh" else 1: capacity}
    free = ({0: batch, 1: sequence}, {0: batch}, [axes] * len(keys), [axes] * len(values))
    return (ids, write_indices, keys, values), free


def _name(model: ir.Model, layers: int) -> None:
    """Gives inputs and outputs the names that mobius-onnx uses too, key and value of a layer side by side."""
    inputs, outputs = list(model.graph.inputs), list(model.graph.outputs)
    order = [(kind, layer) for layer in range(layers) for kind in ("key", "value")]
    offset = {"key": 0, "value": layers}
    caches = [inputs[2 + offset[kind] + layer] for kind, layer in order]
    updated = [outputs[1 + offset[kind] + layer] for kind, layer in order]
    inputs[0].name, inputs[1].name, outputs[0].name = "input_ids", "write_indices", "logits"
    for (kind, layer), past, present in zip(order, caches, updated, strict=True):
        past.name, present.name = f"{kind}_cache.{layer}", f"updated_{kind}_cache.{layer}"
    model.graph.inputs[:] = [*inputs[:2], *caches]
    model.graph.outputs[:] = [outputs[0], *updated]


def _count_axes_from_the_front(model: ir.Model) -> None:
    """onnx.reference takes a negative axis of ScatterElements for another one than it is."""
    for node in model.graph:
        axis, data = node.attributes.get("axis"), node.inputs[0] if node.inputs else None
        if node.op_type in ("GatherElements", "ScatterElements") and axis is not None and axis.as_int() < 0:
            output = node.outputs[0].shape
            shape = data.shape if data is not None and data.shape is not None else output
            if shape is not None:
                node.attributes["axis"] = ir.AttrInt64("axis", axis.as_int() % len(shape))
