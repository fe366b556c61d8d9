# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Past and present tensors that grow -> caches of a fixed capacity, written by TensorScatter, read by Attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from genai_iface.graph._edit import copy_type, drop_identities, replace_value
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import unsupported
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform._empty_rows import drop_empty_rows
from genai_iface.transform._graph_probe import GraphProbe
from genai_iface.transform._raise_opset import check_age, raise_opset
from genai_iface.transform.contrib.operators import ATTENTION_OPERATORS, StandardOperators
from genai_iface.transform.convert._cache_surgery import CacheSurgery, Converted, finished, layer_notes
from genai_iface.transform.convert._cached_attention import CacheLayer, read_cache_layers
from genai_iface.transform.convert._replace_shared import replace_shared_cache
from genai_iface.transform.convert._step_positions import StepValues, find_step_values

__all__ = ["to_scatter"]

_OPSET = 24
_CAPACITY = "cache_capacity"


def to_scatter(
    model: ir.Model,
    *,
    capacity: int | None = None,
    numbers: Iterable[int] = (),
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Rewrites a past/present decoder for TensorScatter and Attention at opset 24.

    Each layer's past and present become a cache (B, Hkv, C, D) or (B, C, Hkv * D), written at write_indices and
    read by an Attention with nonpad_kv_seqlen. Positions are write_indices + 0..S-1. The attention mask is
    classified by running it: what is causal becomes ``is_causal``, a sliding window becomes an explicit mask by
    position. The inputs attention_mask and position_ids disappear. Contrib GroupQueryAttention is written in standard
    operators together with its cache.

    Args:
        model: The model, local functions inlined. It is changed in place.
        capacity: Positions of the cache, None to leave them symbolic.
        numbers: Integers of config.json among which a sliding window may be.
        limit: Positions that config.json gives the model; no probe goes beyond them.
        progress: Called with (layers read, all layers).

    Raises:
        UnsupportedModelError: The graph follows no known pattern, or a mask is neither causal nor a window.
    """
    nodes_before = len(model.graph)
    drop_identities(model)
    infer_shapes(model)
    signature = derive_signature(model)
    source = signature
    if signature.cache.style == "scatter":
        raise unsupported(
            "The model's cache is of style scatter, expected past/present tensors",
            "It is a model with TensorScatter already.",
        )
    check_age(signature.opset)
    if signature.cache.style == "shared":
        StandardOperators(ATTENTION_OPERATORS)(model)
        raise_opset(model, _OPSET)
        notes = replace_shared_cache(model, signature, capacity, progress)
        return finished(model, notes, nodes_before, source)
    probe = GraphProbe(model, signature)
    if drop_empty_rows(model, probe):
        probe = GraphProbe(model, signature)
    layers = read_cache_layers(model, signature, probe, numbers, progress, limit)
    _ToScatter(model, signature, find_step_values(probe), capacity).run(layers)
    raise_opset(model, _OPSET)
    return finished(model, layer_notes(layers), nodes_before, source)


class _ToScatter(CacheSurgery):
    """The change itself."""

    def __init__(self, model: ir.Model, signature: GraphSignature, found: StepValues, capacity: int | None) -> None:
        super().__init__(model, signature, found, "scatter")
        self._capacity = capacity
        self._windows: dict[int, ir.Value] = {}

    def run(self, layers: Sequence[CacheLayer]) -> None:
        """Changes the graph."""
        self._indices = self.edit.input("write_indices", ir.DataType.INT64, [self.batch])
        self._nonpad = self.edit.input("nonpad_kv_seqlen", ir.DataType.INT64, [self.batch])
        steps = self.numbers(self.number(0), self.length(self.ids, 1))
        self._positions = self.add("Add", [self.add("Unsqueeze", [self._indices, self.edit.ints(1)]), steps])
        for layer in layers:
            self._layer(layer)
        self.finish(self._positions, ("attention_mask", "position_ids"))

    def _layer(self, layer: CacheLayer) -> None:
        caches = (
            self._cache(layer, layer.past_key, layer.present_key, layer.new_key, layer.spec.key_head_dim),
            self._cache(layer, layer.past_value, layer.present_value, layer.new_value, layer.spec.value_head_dim),
        )
        for reader in layer.readers:
            window = reader.mask.window
            mask = None if window is None else self._window(window, layer.past_key)
            self.attention(layer, reader, caches, mask=mask, nonpad=self._nonpad, is_causal=True)

    def _cache(self, layer: CacheLayer, past: ir.Value, present: ir.Value, new: ir.Value, size: int) -> ir.Value:
        place = present.producer()
        assert place is not None  # noqa: S101 - read_cache_layers has looked at it
        update = self.laid_out(place, new, layer.spec.num_kv_heads, size)
        (cache,) = self.edit.before(
            place, "TensorScatter", [past, update, self._indices], {"axis": self.axis, "mode": "linear"}
        )
        self.set_length(past, self._capacity or _CAPACITY, layer.spec.num_kv_heads, size)
        copy_type(past, cache)
        cache.shape = past.shape
        replace_value(present, cache)
        return cache

    def _window(self, window: int, past: ir.Value) -> ir.Value:
        """Bool (B, 1, S, C): key j is within the window of the query at position p, p - window < j.

        Each row has its own positions, so padding and unequal rows do no harm; the keys after the query are
        hidden by is_causal, those that hold nothing by nonpad_kv_seqlen.
        """
        if window not in self._windows:
            keys = self.numbers(self.number(0), self.length(past, self.axis))
            queries = self.add("Unsqueeze", [self._positions, self.edit.ints(1, 3)])
            self._windows[window] = self.add("Greater", [keys, self.add("Sub", [queries, self.number(window)])])
        return self._windows[window]
