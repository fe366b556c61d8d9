# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts cos and sin of all positions into tables, instead of computing them in each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import input_at, is_op
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["RotaryTables"]

_PROBE = (3, 5)
_LIMIT = 256


class RotaryTables(Rewrite):
    """RotaryEmbedding with cos and sin of the step's own tokens takes them from constant tables, by position.

    A runtime then need not compute them in each step, and one whose attention rotates by itself has the tables
    that it wants. Rows are the same to the bit as onnx.reference computes them.

    Precondition: cos and sin follow from write_indices and the width of input_ids alone, and a row of them from
    the token's position alone.

    Args:
        signature: The graph's signature, style "scatter".
        positions: Rows of the tables, the most tokens that a sequence may have.
    """

    name = "rotary-tables"

    def __init__(self, signature: GraphSignature, positions: int) -> None:
        super().__init__()
        self._signature = signature
        self._positions = positions

    def rewrite(self, model: ir.Model) -> Note:
        """Changes every such rotation."""
        if not {"input_ids", "write_indices"} <= self._signature.inputs.keys():
            return self.said(0, "the graph has no write_indices")
        edit = Editor(model.graph, "rotary")
        tables: dict[tuple[int, int], tuple[ir.Value, ir.Value] | None] = {}
        position_ids: ir.Value | None = None
        count = 0
        for node in list(model.graph):
            cos, sin = input_at(node, 1), input_at(node, 2)
            if not is_op(node, "RotaryEmbedding") or input_at(node, 3) is not None or cos is None or sin is None:
                continue
            key = (id(cos), id(sin))
            if key not in tables:
                tables[key] = self._tables(model, edit, cos, sin)
            pair = tables[key]
            if pair is None:
                continue
            position_ids = position_ids or self._position_ids(model, edit)
            node.resize_inputs(4)
            for index, value in enumerate((*pair, position_ids), 1):
                node.replace_input_with(index, value)
            count += 1
        if count:
            made = sum(pair is not None for pair in tables.values())
            return self.said(count, f"{count} rotations read {made} pairs of tables with {self._positions} rows")
        return self.said(0, "no rotation has cos and sin that depend on positions alone")

    def _tables(self, model: ir.Model, edit: Editor, cos: ir.Value, sin: ir.Value) -> tuple[ir.Value, ir.Value] | None:
        whole = self._computed(model, (cos, sin), 0, self._positions)
        start, width = _PROBE
        some = self._computed(model, (cos, sin), start, width)
        if whole is None or some is None or start + width > self._positions:
            return None
        made = []
        for stem, value, rows, probe in zip(("cos", "sin"), (cos, sin), whole, some, strict=True):
            if rows.ndim != 3 or rows.shape[:2] != (1, self._positions) or value.dtype is None:
                return None
            if not np.array_equal(rows[:, start : start + width], probe):
                return None
            made.append(edit.weight(stem, ir.Tensor(np.ascontiguousarray(rows[0]), dtype=value.dtype)))
        return made[0], made[1]

    def _computed(
        self, model: ir.Model, values: tuple[ir.Value, ir.Value], start: int, width: int
    ) -> list[NDArray[Any]] | None:
        """What a row of one step would compute; None if it depends on more than positions."""
        ids, write_indices = self._signature.inputs["input_ids"], self._signature.inputs["write_indices"]
        sources = _sources(values)
        if sources is None or not {str(source.name) for source in sources} <= {ids, write_indices}:
            return None
        feeds = {ids: np.zeros((1, width), np.int64), write_indices: np.array([start], np.int64)}
        graph = ir.convenience.extract(model.graph, sources, list(values))
        cone = ir.Model(graph, ir_version=model.ir_version)
        graph.opset_imports.update(model.graph.opset_imports)
        evaluator = ReferenceEvaluator(ir.to_proto(cone))
        return [np.asarray(got) for got in evaluator.run(None, {str(s.name): feeds[str(s.name)] for s in sources})]

    def _position_ids(self, model: ir.Model, edit: Editor) -> ir.Value:
        """write_indices + 0..S-1, (B, S)."""
        values = ir.convenience.create_value_mapping(model.graph)
        ids, starts = (values[self._signature.inputs[role]] for role in ("input_ids", "write_indices"))
        place = model.graph[0]
        (width,) = edit.before(place, "Shape", [ids], {"start": 1, "end": 2})
        (scalar,) = edit.before(place, "Squeeze", [width])
        zero, one = (edit.weight(stem, ir.Tensor(np.array(n, np.int64))) for stem, n in (("zero", 0), ("one", 1)))
        (steps,) = edit.before(place, "Range", [zero, scalar, one])
        (column,) = edit.before(place, "Unsqueeze", [starts, edit.ints(1)])
        (positions,) = edit.before(place, "Add", [column, steps])
        positions.dtype = ir.DataType.INT64
        if starts.shape is not None and ids.shape is not None:
            positions.shape = ir.Shape([starts.shape[0], ids.shape[1]])
        return positions


def _sources(values: tuple[ir.Value, ...]) -> list[ir.Value] | None:
    """The graph inputs that values follow from; None if there is too much in between."""
    found, seen = list(values), {id(value) for value in values}
    for current in found:
        producer = current.producer()
        for source in producer.inputs if producer is not None else ():
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                found.append(source)
        if len(found) > _LIMIT:
            return None
    return [value for value in found if value.is_graph_input() and not value.is_initializer()]
