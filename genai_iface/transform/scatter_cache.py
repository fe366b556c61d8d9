# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Past and present tensors that grow -> caches of a fixed capacity, written by TensorScatter, read by Attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from genai_iface.folder.contract import GraphContract
from genai_iface.folder.derive import derive_contract
from genai_iface.folder.graph import describe, is_op, rank, unsupported
from genai_iface.transform.cached_attention import AttentionRead, CacheLayer, read_cache_layers
from genai_iface.transform.edit import Editor, copy_type, infer_shapes, replace_value
from genai_iface.transform.graph_probe import GraphProbe
from genai_iface.transform.raise_opset import raise_opset
from genai_iface.transform.step_positions import StepValues, find_step_values, replace_positions

__all__ = ["Converted", "LayerNote", "to_scatter"]

_OPSET = 24
_BATCH, _CAPACITY = "batch", "cache_capacity"
_KEEP = "Keep the past/present model, or export it again with the inputs attention_mask and position_ids."


@dataclass(frozen=True, slots=True)
class LayerNote:
    """What was found in one layer.

    Attributes:
        layer: Its index.
        form: How its attention was written.
        mask: "causal" or "window N".
        readers: Attentions that read this cache.
    """

    layer: int
    form: str
    mask: str
    readers: int = 1


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted model.

    Attributes:
        model: The model, changed in place.
        contract: Its new contract.
        layers: What was found, by layer.
        nodes_before, nodes_after: Sizes of the graph.
        removed_inputs, added_inputs: Names of graph inputs.
        difference: The largest difference of a logit from the source's, as a part of the largest; None if not compared.
        unverified: Why it could not be compared.
    """

    model: ir.Model
    contract: GraphContract
    layers: tuple[LayerNote, ...]
    nodes_before: int
    nodes_after: int
    removed_inputs: tuple[str, ...]
    added_inputs: tuple[str, ...]
    difference: float | None = None
    unverified: str = ""


def to_scatter(
    model: ir.Model,
    *,
    capacity: int | None = None,
    numbers: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Rewrites a past/present decoder for TensorScatter and Attention at opset 24.

    Each layer's past and present become a cache (B, Hkv, C, D) or (B, C, Hkv * D), written at write_indices and
    read by an Attention with nonpad_kv_seqlen. Positions are write_indices + 0..S-1. The attention mask is
    classified by running it: what is causal becomes ``is_causal``, a sliding window becomes an explicit mask by
    position. The inputs attention_mask and position_ids disappear.

    Args:
        model: The model, local functions inlined. It is changed in place.
        capacity: Slots of the cache, None to leave them symbolic.
        numbers: Integers of config.json among which a sliding window may be.
        progress: Called with (layers read, all layers).

    Raises:
        UnsupportedModelError: The graph follows no known pattern, or a mask is neither causal nor a window.
    """
    nodes_before = len(model.graph)
    IdentityEliminationPass()(model)
    infer_shapes(model)
    contract = derive_contract(model)
    if contract.cache.style != "concat":
        raise unsupported(
            f"The model's cache is of style {contract.cache.style}, expected past/present tensors that grow",
            "It need not be converted." if contract.cache.style == "scatter" else _KEEP,
        )
    probe = GraphProbe(model, contract)
    layers = read_cache_layers(model, contract, probe, numbers, progress)
    found = find_step_values(probe)
    before = [str(value.name) for value in model.graph.inputs]
    _Surgery(model, contract, found, capacity).run(layers)
    raise_opset(model, _OPSET)
    CommonSubexpressionEliminationPass()(model)
    _forget_old_shapes(model)
    infer_shapes(model)
    after = [str(value.name) for value in model.graph.inputs]
    return Converted(
        model=model,
        contract=derive_contract(model),
        layers=tuple(
            LayerNote(layer.index, layer.readers[0].form, _masks(layer), len(layer.readers)) for layer in layers
        ),
        nodes_before=nodes_before,
        nodes_after=len(model.graph),
        removed_inputs=tuple(name for name in before if name not in after),
        added_inputs=tuple(name for name in after if name not in before),
    )


def _masks(layer: CacheLayer) -> str:
    return ", ".join(dict.fromkeys(str(reader.mask) for reader in layer.readers))


class _Surgery:
    """The change itself, once everything is known."""

    def __init__(self, model: ir.Model, contract: GraphContract, found: StepValues, capacity: int | None) -> None:
        self._model, self._graph, self._contract, self._found = model, model.graph, contract, found
        self._capacity = capacity
        self._axis = 2 if contract.cache.layout == "bnsh" else 1
        self._values = ir.convenience.create_value_mapping(model.graph)
        self._windows: dict[int, ir.Value] = {}

    def run(self, layers: list[CacheLayer]) -> None:
        """Changes the graph."""
        graph = self._graph
        self._edit = edit = Editor(graph, "scatter")
        # A place that stays where it is; it goes in the end, because nothing reads it.
        self._place = ir.node("Identity", [graph.inputs[0]])
        graph.insert_before(graph[0], self._place)
        self._ids = self._values[self._contract.inputs["input_ids"]]
        batch = str(self._ids.shape[0]) if self._ids.shape is not None else _BATCH
        self._indices = edit.input("write_indices", ir.DataType.INT64, [batch])
        self._nonpad = edit.input("nonpad_kv_seqlen", ir.DataType.INT64, [batch])
        self._positions = self._make_positions()
        for layer in layers:
            self._layer(layer)
        replace_positions(edit, self._place, self._found, self._positions, _leading_to(graph.outputs))
        RemoveUnusedNodesPass()(self._model)
        self._check_what_is_left()
        self._drop_inputs()
        RemoveUnusedNodesPass()(self._model)

    def _make_positions(self) -> ir.Value:
        """int64 (B, S): write_indices + 0..S-1."""
        edit, place = self._edit, self._place
        (width,) = edit.before(place, "Shape", [self._ids], {"start": 1, "end": 2})
        (width,) = edit.before(place, "Squeeze", [width, edit.ints(0)])
        (steps,) = edit.before(place, "Range", [self._number(0), width, self._number(1)])
        (starts,) = edit.before(place, "Unsqueeze", [self._indices, edit.ints(1)])
        return edit.before(place, "Add", [starts, steps])[0]

    def _number(self, value: int) -> ir.Value:
        """A constant int64 scalar."""
        return self._edit.before(self._place, "Constant", [], {"value_int": value})[0]

    def _layer(self, layer: CacheLayer) -> None:
        edit = self._edit
        caches = []
        writer = layer.present_key.producer()
        assert writer is not None  # noqa: S101 - read_cache_layers has looked at it
        size = {layer.past_key: layer.spec.key_head_dim, layer.past_value: layer.spec.value_head_dim}
        for past, present, new in (
            (layer.past_key, layer.present_key, layer.new_key),
            (layer.past_value, layer.present_value, layer.new_value),
        ):
            place = present.producer() or writer
            update = self._laid_out(place, new, layer.spec.num_kv_heads, size[past])
            (cache,) = edit.before(
                place, "TensorScatter", [past, update, self._indices], {"axis": self._axis, "mode": "linear"}
            )
            self._set_capacity(past)
            copy_type(past, cache)
            cache.shape = past.shape
            replace_value(present, cache)
            caches.append(cache)
        for reader in layer.readers:
            self._attention(layer, reader, caches[0], caches[1])

    def _laid_out(self, place: ir.Node, new: ir.Value, heads: int, size: int) -> ir.Value:
        """New tokens in the layout of the cache."""
        if self._axis == 1 or rank(new) != 3:
            return new
        (split,) = self._edit.before(place, "Reshape", [new, self._edit.ints(0, 0, heads, size)])
        return self._edit.before(place, "Transpose", [split], {"perm": [0, 2, 1, 3]})[0]

    def _set_capacity(self, past: ir.Value) -> None:
        dims = list(past.shape) if past.shape is not None else []
        past.shape = ir.Shape(
            [(self._capacity or _CAPACITY) if axis == self._axis else dim for axis, dim in enumerate(dims)]
        )

    def _attention(self, layer: CacheLayer, reader: AttentionRead, key: ir.Value, value: ir.Value) -> None:
        edit, spec, place = self._edit, layer.spec, reader.end
        heads, axes = reader.num_heads, 4 if self._axis == 2 else 3
        query = reader.query
        if reader.rank == 3 and axes == 4:
            (query,) = edit.before(place, "Reshape", [query, edit.ints(0, 0, heads, spec.key_head_dim)])
            (query,) = edit.before(place, "Transpose", [query], {"perm": [0, 2, 1, 3]})
        elif reader.rank == 4 and axes == 3:
            (query,) = edit.before(place, "Transpose", [query], {"perm": [0, 2, 1, 3]})
            (query,) = edit.before(place, "Reshape", [query, edit.ints(0, 0, heads * spec.key_head_dim)])
        mask = None if reader.mask.window is None else self._window(reader.mask.window, layer.past_key)
        attributes: dict[str, int | float] = {"is_causal": 1}
        if reader.scale != spec.key_head_dim**-0.5:
            attributes["scale"] = reader.scale
        if reader.softcap:
            attributes["softcap"] = reader.softcap
        if reader.softmax_precision:
            attributes["softmax_precision"] = reader.softmax_precision
        if axes == 3:
            attributes |= {"q_num_heads": heads, "kv_num_heads": spec.num_kv_heads}
        (mixed,) = edit.before(place, "Attention", [query, key, value, mask, None, None, self._nonpad], attributes)
        copy_type(reader.query, mixed)
        if reader.rank == 3 and axes == 4:
            (mixed,) = edit.before(place, "Transpose", [mixed], {"perm": [0, 2, 1, 3]})
            (mixed,) = edit.before(place, "Reshape", [mixed, edit.ints(0, 0, heads * spec.value_head_dim)])
        elif reader.rank == 4 and axes == 3:
            (mixed,) = edit.before(place, "Reshape", [mixed, edit.ints(0, 0, heads, spec.value_head_dim)])
            (mixed,) = edit.before(place, "Transpose", [mixed], {"perm": [0, 2, 1, 3]})
        copy_type(reader.query, mixed)
        replace_value(place.outputs[0], mixed)

    def _window(self, window: int, past: ir.Value) -> ir.Value:
        """Bool (B, 1, S, C): key j is within the window of the query at position p, p - window < j.

        Each row has its own positions, so padding and unequal rows do no harm; the keys after the query are
        hidden by is_causal, those that hold nothing by nonpad_kv_seqlen.
        """
        if window not in self._windows:
            edit, place = self._edit, self._place
            (slots,) = edit.before(place, "Shape", [past], {"start": self._axis, "end": self._axis + 1})
            (slots,) = edit.before(place, "Squeeze", [slots, edit.ints(0)])
            (keys,) = edit.before(place, "Range", [self._number(0), slots, self._number(1)])
            (queries,) = edit.before(place, "Unsqueeze", [self._positions, edit.ints(1, 3)])
            (first,) = edit.before(place, "Sub", [queries, self._number(window)])
            (self._windows[window],) = edit.before(place, "Greater", [keys, first])
        return self._windows[window]

    # What is left of the old inputs.

    def _check_what_is_left(self) -> None:
        """Nothing may still depend on how many past tokens there were, but by way of the new positions."""
        index = self._found.shapes
        renewed = _follows([self._positions])
        names = [self._contract.inputs.get("attention_mask"), self._contract.inputs.get("position_ids")]
        for node in self._graph:
            for source in node.inputs:
                if source is None or source in renewed:
                    continue
                is_old = source in self._found.changing or source.name in names
                if not is_old or (is_op(node, "Shape") and source.name in names):
                    continue
                stays = all(output in index and output not in renewed for output in node.outputs)
                if not stays or (source.name in names and not (set(node.outputs) & self._found.changing)):
                    raise unsupported(
                        f"{source.name!r} follows from the length of the past or the attention mask and still feeds the "
                        f"{describe(node)}, which is neither a mask nor positions",
                        _KEEP,
                    )

    def _drop_inputs(self) -> None:
        for role in ("attention_mask", "position_ids"):
            name = self._contract.inputs.get(role)
            if name is None:
                continue
            value = self._values[name]
            for node, slot in tuple(value.uses()):
                # Only its shape is read, of which only the batch size matters.
                node.replace_input_with(slot, self._ids)
            self._graph.inputs.remove(value)


def _leading_to(values: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that the values follow from."""
    found: set[ir.Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(source for source in node.inputs if source is not None)
    return found


def _follows(values: list[ir.Value]) -> set[ir.Value]:
    """The values, and everything that follows from them."""
    found, pending = set(values), list(values)
    while pending:
        for node, _ in pending.pop().uses():
            for output in node.outputs:
                if output not in found:
                    found.add(output)
                    pending.append(output)
    return found


def _forget_old_shapes(model: ir.Model) -> None:
    """Shapes in between may name dimensions that are gone."""
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
