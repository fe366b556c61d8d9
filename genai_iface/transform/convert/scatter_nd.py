# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""TensorScatter -> ScatterND with computed indices, for runtimes that lack the former. Inputs stay as they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from genai_iface.graph._edit import Editor, copy_type, replace_value
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import attribute, describe, dim, input_at, is_op, rank, static_dim, unsupported
from genai_iface.graph.derive import derive_signature
from genai_iface.transform.convert._cache_surgery import Converted, LayerNote
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["ScatterNd", "to_scatter_nd"]


class ScatterNd(Rewrite):
    """Replaces every TensorScatter, linear or circular; the indices of layers of one shape are computed once."""

    name = "scatter-nd"

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place.

        Raises:
            UnsupportedModelError: The rank or the number of heads of a cache is not in the graph.
        """
        self._edit = Editor(model.graph, "scatter_nd")
        self._made: dict[tuple[object, ...], ir.Value] = {}
        nodes = [node for node in model.graph if is_op(node, "TensorScatter")]
        for node in nodes:
            self._replace(node)
        return self.said(len(nodes), f"{len(nodes)} cache tensors")

    def _replace(self, node: ir.Node) -> None:
        past, update, starts = (input_at(node, index) for index in range(3))
        axes = None if past is None else rank(past)
        if past is None or update is None or starts is None or axes is None:
            raise unsupported(f"The {describe(node)} has no write_indices, or the rank of its cache is not known")
        axis = attribute(node, "axis", -2) % axes
        indices = self._indices(node, past, update, starts, axis)
        (result,) = self._edit.before(node, "ScatterND", [past, indices, update])
        copy_type(past, result)
        result.shape = past.shape
        replace_value(node.outputs[0], result)

    def _indices(self, node: ir.Node, past: ir.Value, update: ir.Value, starts: ir.Value, axis: int) -> ir.Value:
        """int64 (B, .., S, axis + 1): for each row, head and new token, its index in the cache."""
        ring = attribute(node, "mode", "linear") == "circular"
        sizes = [size for place in range(1, axis) if (size := static_dim(past, place)) is not None]
        if len(sizes) != axis - 1:
            raise unsupported(f"The {describe(node)} writes {past.name!r}, whose number of heads is not in the graph")
        key = (starts, tuple(sizes), axis, dim(past, axis) if ring else "")
        if key not in self._made:
            add = self._edit.before
            one, zero = self._number(node, 1), self._number(node, 0)
            (shape,) = add(node, "Shape", [update], {"start": 0, "end": axis + 1})
            (width,) = add(node, "Gather", [shape, self._number(node, axis)])
            (rows,) = add(node, "Gather", [shape, zero])
            (steps,) = add(node, "Range", [zero, width, one])
            (begin,) = add(node, "Unsqueeze", [starts, self._edit.ints(1)])
            (indices,) = add(node, "Add", [begin, steps])
            if ring:
                (capacity,) = add(node, "Shape", [past], {"start": axis, "end": axis + 1})
                (indices,) = add(node, "Mod", [indices, capacity])
            (batch,) = add(node, "Range", [zero, rows, one])
            # Each coordinate as (B or 1, heads or 1, S or 1, 1), then all of them side by side.
            places = [add(node, "Unsqueeze", [batch, self._edit.ints(*range(1, axis + 2))])[0]]
            for place, size in enumerate(sizes, start=1):
                steady = np.arange(size, dtype=np.int64).reshape([-1 if at == place else 1 for at in range(axis + 2)])
                places.append(self._edit.weight("heads", ir.Tensor(steady)))
            around = [*range(1, axis), axis + 1]
            places.append(add(node, "Unsqueeze", [indices, self._edit.ints(*around)])[0])
            (target,) = add(node, "Concat", [shape, self._edit.ints(1)], {"axis": 0})
            places = [add(node, "Expand", [value, target])[0] for value in places]
            (self._made[key],) = add(node, "Concat", places, {"axis": -1})
        return self._made[key]

    def _number(self, node: ir.Node, value: int) -> ir.Value:
        return self._edit.before(node, "Constant", [], {"value_int": value})[0]


def to_scatter_nd(model: ir.Model) -> Converted:
    """Lowers a model with TensorScatter; it is driven as before, by the signature of the source.

    Args:
        model: The model, local functions inlined. It is changed in place.

    Raises:
        UnsupportedModelError: It has no TensorScatter caches.
    """
    nodes_before = len(model.graph)
    infer_shapes(model)
    signature = derive_signature(model)
    if signature.cache.style != "scatter":
        raise unsupported(
            f"The model's cache is of style {signature.cache.style}, expected TensorScatter",
            "Convert it first: genai-iface convert MODEL OUT --to scatter.",
        )
    ScatterNd()(model)
    infer_shapes(model)
    notes = tuple(
        LayerNote(index, f"TensorScatter, {layer.mode}", "unchanged")
        for index, layer in enumerate(signature.cache.layers)
    )
    return Converted(model, signature, notes, nodes_before, len(model.graph), (), ())
