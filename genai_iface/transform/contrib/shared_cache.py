# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GroupQueryAttention's shared buffer -> TensorScatter: the whole graph is driven by write_indices afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import describe, input_at, is_op, unsupported
from genai_iface.graph.signature import GraphSignature, InputRole
from genai_iface.transform._graph_probe import GraphProbe
from genai_iface.transform.contrib.mappings.grouped_query import StepInputs, grouped_query
from genai_iface.transform.contrib.operators import OPSET
from genai_iface.transform.contrib.site import KEEP, Scope, Site
from genai_iface.transform.contrib.types import GROUPED
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["SharedCache"]

_CAPACITY = "cache_capacity"
_PROBE = (4, 3)


class SharedCache(Rewrite):
    """Replaces every GroupQueryAttention, its cache and the inputs that say how long rows are.

    Positions, lengths and the attention mask follow from write_indices and nonpad_kv_seqlen then. All layers or none.

    Args:
        signature: The graph's signature, cache style "shared".
        capacity: Positions of the cache, None to leave them symbolic.
        progress: Called with (layers replaced, all layers).

    Attributes:
        windows: Positions that each layer sees, None for all.
    """

    name = "shared-cache"

    def __init__(
        self,
        signature: GraphSignature,
        capacity: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self._signature, self._capacity = signature, capacity
        self._progress = progress or (lambda done, total: None)
        self.windows: tuple[int | None, ...] = ()

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place. The caller declares the opset.

        Raises:
            UnsupportedModelError: A GroupQueryAttention has something that the standard operators lack, or the
                graph needs the length of the buffer.
        """
        graph, signature = model.graph, self._signature
        nodes = [node for node in graph if is_op(node, GROUPED)]
        self._check(model, nodes)
        values = ir.convenience.create_value_mapping(graph)
        scope = Scope(Editor(graph, "scatter"), OPSET)
        step = self._step_inputs(graph, values, scope)
        pairs = list(zip(signature.cache_tensors[0::2], signature.cache_tensors[1::2], strict=True))
        by_past = {str(past.name): node for node in nodes if (past := input_at(node, 3)) is not None}
        windows = []
        for key, value in pairs:
            node, layer = by_past[key.past], signature.cache.layers[key.layer]
            for tensor, size in ((key, layer.key_head_dim), (value, layer.value_head_dim)):
                batch = values[tensor.past].shape
                first = "batch" if batch is None else batch[0]
                length = self._capacity or layer.capacity or _CAPACITY
                values[tensor.past].shape = ir.Shape([first, layer.num_kv_heads, length, size])
            site = Site(node, scope)
            *written, window = grouped_query(site, layer, step)
            for index, cache in enumerate(written, start=1):
                site.give(cache, index)
            windows.append(window)
            self._progress(len(windows), len(pairs))
        RemoveUnusedNodesPass()(model)
        self._drop_inputs(graph, values)
        self.windows = tuple(windows)
        return self.said(len(windows), f"{len(windows)} layers")

    def _check(self, model: ir.Model, nodes: list[ir.Node]) -> None:
        """Every node has a cache, its lengths mean what they seem to, and nothing else reads a buffer."""
        probe = GraphProbe(model, self._signature)
        known: dict[str, bool] = {}
        past, new = _PROBE
        for node in nodes:
            lengths = input_at(node, 5)
            if input_at(node, 3) is None or input_at(node, 4) is None or lengths is None:
                raise unsupported(f"The {describe(node)} has no cache or no lengths of its rows", KEEP)
            name = str(lengths.name)
            if name not in known:
                (got,) = probe.run([lengths], past, new)
                known[name] = bool((np.asarray(got).ravel() == past + new - 1).all())
            if not known[name]:
                raise unsupported(f"seqlens_k of the {describe(node)} is not the length of each row minus one", KEEP)
        names = {tensor.past for tensor in self._signature.cache_tensors}
        for value in model.graph.inputs:
            for node, _ in value.uses() if value.name in names else ():
                if not is_op(node, GROUPED):
                    raise unsupported(f"The {describe(node)} reads {value.name!r}, a buffer of any length", KEEP)

    def _step_inputs(self, graph: ir.Graph, values: dict[str, ir.Value], scope: Scope) -> StepInputs:
        """The new inputs, and what the old ones become."""
        ids = values[self._signature.inputs["input_ids"]]
        batch = "batch" if ids.shape is None else ids.shape[0]
        size = batch if isinstance(batch, int) else str(batch)
        starts = scope.edit.input("write_indices", ir.DataType.INT64, [size])
        nonpad = scope.edit.input("nonpad_kv_seqlen", ir.DataType.INT64, [size])
        place = Site(graph[0], scope)
        width = place.add("Squeeze", place.length(ids, 1))
        steps = place.add("Range", place.index(0), width, place.index(1))
        positions = place.add("Add", place.add("Unsqueeze", starts, place.ints(1)), steps)
        made: dict[InputRole, Callable[[], ir.Value]] = {
            "position_ids": lambda: positions,
            "seqlens_k": lambda: place.add("Sub", nonpad, place.index(1)),
            "total_sequence_length": lambda: place.add("ReduceMax", nonpad, keepdims=0),
            "attention_mask": lambda: _mask(place, nonpad),
        }
        for role, make in made.items():
            old = values.get(self._signature.inputs.get(role) or "")
            if old is None or not old.uses():
                continue
            new = make()
            if old.shape is not None and len(old.shape) == 2 and role == "seqlens_k":
                new = place.add("Unsqueeze", new, place.ints(1))
            elif old.shape is not None and len(old.shape) == 1 and role == "total_sequence_length":
                new = place.add("Unsqueeze", new, place.ints(0))
            if old.dtype is not None and old.dtype != new.dtype:
                new = place.add("Cast", new, to=int(old.dtype))
            ir.convenience.replace_all_uses_with(old, new)
        return StepInputs(starts, nonpad, positions)

    def _drop_inputs(self, graph: ir.Graph, values: dict[str, ir.Value]) -> None:
        for role, name in self._signature.inputs.items():
            if role != "input_ids" and not values[name].uses():
                graph.inputs.remove(values[name])


def _mask(place: Site, nonpad: ir.Value) -> ir.Value:
    """Bool (B, T): true for the valid positions of each row, as long as the longest."""
    longest = place.add("ReduceMax", nonpad, keepdims=0)
    every = place.add("Range", place.index(0), longest, place.index(1))
    return place.add("Less", every, place.add("Unsqueeze", nonpad, place.ints(1)))
