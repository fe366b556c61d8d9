# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Caches written by TensorScatter -> past and present tensors that grow, with the names of published models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._edit import copy_type, drop_identities, replace_value
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import unsupported
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform._graph_probe import GraphProbe
from genai_iface.transform._raise_opset import raise_opset
from genai_iface.transform.convert._cache_surgery import CacheSurgery, Converted, finished, layer_notes
from genai_iface.transform.convert._cached_attention import CacheLayer, read_cache_layers
from genai_iface.transform.convert._step_positions import StepValues, find_step_values

__all__ = ["to_concat"]

# The oldest with Attention, which is what runtimes without TensorScatter are likely to read.
_OPSET = 23
_PAST, _TOTAL, _NEW = "past_sequence_length", "total_sequence_length", "sequence_length"


def to_concat(
    model: ir.Model,
    *,
    numbers: Iterable[int] = (),
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Rewrites a decoder with TensorScatter for runtimes that lack it.

    The result takes input_ids, attention_mask (B, P + S), position_ids (B, S) and past_key_values.N.key/value, and
    gives logits and present.N.key/value, as Optimum's exports do. attention_mask may hide padding on the left.

    Args:
        model: The model, local functions inlined. It is changed in place.
        numbers: Integers of config.json among which a sliding window may be.
        limit: Positions that config.json gives the model; no probe goes beyond them.
        progress: Called with (layers read, all layers).

    Raises:
        UnsupportedModelError: The graph follows no known pattern, a cache is circular, or a mask is neither causal nor
            a window.
    """
    nodes_before = len(model.graph)
    drop_identities(model)
    infer_shapes(model)
    signature = derive_signature(model)
    if signature.cache.style != "scatter" or signature.cache.is_circular:
        kind = "circular" if signature.cache.is_circular else signature.cache.style
        raise unsupported(
            f"The model's cache is {kind}, expected linear TensorScatter caches", "Give a model with such a cache."
        )
    if any(layer.dtype == "int8" for layer in signature.cache.layers):
        raise unsupported(
            "The model's cache is int8, which past/present models do not have",
            "Convert the model from before its cache was quantized.",
        )
    probe = GraphProbe(model, signature)
    layers = read_cache_layers(model, signature, probe, numbers, progress, limit)
    _ToConcat(model, signature, find_step_values(probe)).run(layers)
    try:
        raise_opset(model, _OPSET)
    except UnsupportedModelError:
        # A newer operator is in use; the model stays at its opset.
        raise_opset(model, model.graph.opset_imports.get("", 0))
    return finished(model, layer_notes(layers), nodes_before, signature)


class _ToConcat(CacheSurgery):
    """The change itself."""

    def __init__(self, model: ir.Model, signature: GraphSignature, found: StepValues) -> None:
        super().__init__(model, signature, found, "concat")
        self._masks: dict[int | None, ir.Value] = {}

    def run(self, layers: Sequence[CacheLayer]) -> None:
        """Changes the graph."""
        self._mask_input = self.edit.input("attention_mask", ir.DataType.INT64, [self.batch, _TOTAL])
        given = self.signature.inputs.get("position_ids")
        if given is None:
            positions = self.edit.input("position_ids", ir.DataType.INT64, [self.batch, _NEW])
        else:
            positions = self.values[given]
            self.found.positions.pop(positions, None)
        for layer in layers:
            self._layer(layer)
        self.finish(positions, ("write_indices", "nonpad_kv_seqlen"))
        self._rename(layers, positions)

    def _layer(self, layer: CacheLayer) -> None:
        caches = (
            self._grown(layer, layer.past_key, layer.present_key, layer.new_key, layer.spec.key_head_dim),
            self._grown(layer, layer.past_value, layer.present_value, layer.new_value, layer.spec.value_head_dim),
        )
        for reader in layer.readers:
            mask = self._mask(reader.mask.window)
            self.attention(layer, reader, caches, mask=mask, nonpad=None, is_causal=False)

    def _grown(self, layer: CacheLayer, past: ir.Value, present: ir.Value, new: ir.Value, size: int) -> ir.Value:
        place = present.producer()
        assert place is not None  # noqa: S101 - read_cache_layers has looked at it
        (cache,) = self.edit.before(place, "Concat", [past, new], {"axis": self.axis})
        self.set_length(past, _PAST, layer.spec.num_kv_heads, size)
        copy_type(past, cache)
        self.set_length(cache, _TOTAL, layer.spec.num_kv_heads, size)
        replace_value(present, cache)
        return cache

    def _mask(self, window: int | None) -> ir.Value:
        """Bool (B, 1, S, P + S), by index in the cache, which with padding on the left is not the token's position.

        A query always sees its own key, so that a padded one has something to look at and stays finite.
        """
        if window not in self._masks:
            total = self.length(self._mask_input, 1)
            keys = self.numbers(self.number(0), total)
            queries = self.numbers(self.add("Sub", [total, self.length(self.ids, 1)]), total)
            queries = self.add("Unsqueeze", [queries, self.edit.ints(1)])
            seen = self.add("LessOrEqual", [keys, queries])
            if window is not None:
                near = self.add("Greater", [keys, self.add("Sub", [queries, self.number(window)])])
                seen = self.add("And", [seen, near])
            real = self.add("Cast", [self._mask_input], to=ir.DataType.BOOL.value)
            seen = self.add("And", [seen, self.add("Unsqueeze", [real, self.edit.ints(1, 2)])])
            self._masks[window] = self.add("Or", [seen, self.add("Equal", [keys, queries])])
        return self._masks[window]

    def _rename(self, layers: Sequence[CacheLayer], positions: ir.Value) -> None:
        """Inputs and outputs get the names and the order of published models."""
        values = ir.convenience.create_value_mapping(self.graph)
        logits = values[self.signature.logits]
        wanted = {self.ids: "input_ids", self._mask_input: "attention_mask", positions: "position_ids"}
        outputs = {logits: "logits"}
        for layer in layers:
            for kind, past, present in (
                ("key", layer.past_key, self.signature.cache_tensors[2 * layer.index].present),
                ("value", layer.past_value, self.signature.cache_tensors[2 * layer.index + 1].present),
            ):
                wanted[past] = f"past_key_values.{layer.index}.{kind}"
                outputs[values[present]] = f"present.{layer.index}.{kind}"
        names = {**wanted, **outputs}
        for value in values.values():
            if value not in names and value.name in names.values():
                value.name = self.edit.name(str(value.name))
        for value in names:
            value.name = f"{value.name}.old"
        for value, name in names.items():
            value.name = name
        others = [value for value in self.graph.inputs if value not in wanted]
        self.graph.inputs[:] = [*wanted, *others]
        others = [value for value in self.graph.outputs if value not in outputs]
        self.graph.outputs[:] = [*outputs, *others]
