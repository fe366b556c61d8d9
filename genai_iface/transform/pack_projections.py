# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One matrix product where several read the same activation: queries, keys and values; gate and up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from genai_iface.graph._edit import Editor, constant_tensor, copy_type, only_user
from genai_iface.graph._walk import is_op
from genai_iface.transform._weights import Matrix, concatenated, matrix_of
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["PackProjections"]


@dataclass(frozen=True, slots=True)
class _Projection:
    """A MatMul with a constant matrix, and the Add of a bias after it.

    Attributes:
        node: The MatMul node.
        matrix: The constant that it multiplies with.
        bias: The bias (N,), None without one.
        output: What the rest of the graph reads.
    """

    node: ir.Node
    matrix: Matrix
    bias: ir.Value | None
    output: ir.Value


class PackProjections(Rewrite):
    """Joins the weights of MatMuls that read the same value; a Split gives the parts.

    Precondition: two or more constant matrices of one kind: plain with equal element type, or
    DequantizeLinear along K with equal block size, integer type and kind of zero point. Biases are
    joined if all have one or none has.

    Args:
        smallest_plain: Plain matrices are joined in groups of at least so many. Only quantized ones gain from
            fewer calls; queries, keys and values gain where the attention takes them packed.
    """

    name = "pack-projections"

    def __init__(self, *, smallest_plain: int = 2) -> None:
        super().__init__()
        self._smallest_plain = smallest_plain

    def rewrite(self, model: ir.Model) -> Note:
        """Packs every group."""
        graph = model.graph
        edit = Editor(graph, "pack_projections")
        groups: dict[tuple[object, ...], list[_Projection]] = {}
        for node in graph:
            projection = _projection(node)
            if projection is None:
                continue
            # Attention takes queries, keys and values in one tensor if there is nothing else in it.
            key = (id(node.inputs[0]), projection.matrix.kind, projection.bias is None, _has_heads(projection.output))
            groups.setdefault(key, []).append(projection)
        packed = [group for group in groups.values() if len(group) >= self._smallest(group[0])]
        for group in packed:
            _pack(edit, group)
        if not packed:
            return self.said(0, "no two products with constant matrices of one kind read the same value")
        return self.said(len(packed), f"{sum(map(len, packed))} products became {len(packed)}")

    def _smallest(self, one: _Projection) -> int:
        return self._smallest_plain if one.matrix.dequantize is None else 2


def _projection(node: ir.Node) -> _Projection | None:
    if not is_op(node, "MatMul") or node.outputs[0].is_graph_output():
        return None
    matrix = matrix_of(node.inputs[1])
    if matrix is None or matrix.axis not in (-1, 0):
        return None
    # A weight with another reader would be kept twice.
    if len(node.inputs[1].uses() if node.inputs[1] is not None else ()) != 1:
        return None
    if any(len(part.uses()) != 1 for part in matrix.parts):
        return None
    after = only_user(node.outputs[0])
    if after is not None and is_op(after, "Add") and not after.outputs[0].is_graph_output():
        other = after.inputs[1] if after.inputs[0] is node.outputs[0] else after.inputs[0]
        tensor = constant_tensor(other)
        if tensor is not None and list(tensor.shape) == [matrix.shape[1]]:
            return _Projection(node, matrix, other, after.outputs[0])
    return _Projection(node, matrix, None, node.outputs[0])


def _has_heads(output: ir.Value) -> bool:
    """Whether a product is split into heads, or goes into attention as it is."""
    return any(is_op(node, "Reshape", "Attention", "RotaryEmbedding", "TensorScatter") for node, _ in output.uses())


def _pack(edit: Editor, group: list[_Projection]) -> None:
    place = group[0].node
    sizes = [projection.matrix.shape[1] for projection in group]
    weight = concatenated(edit, place, "weight", [projection.matrix for projection in group])
    (product,) = edit.before(place, "MatMul", [place.inputs[0], weight])
    _describe(product, group[0].node.outputs[0], sum(sizes))
    biases = [constant_tensor(projection.bias) for projection in group]
    if group[0].bias is not None:
        joined = np.concatenate([tensor.numpy() for tensor in biases if tensor is not None])
        product = edit.before(place, "Add", [product, edit.weight("bias", ir.Tensor(joined))])[0]
        _describe(product, group[0].node.outputs[0], sum(sizes))
    parts = edit.before(place, "Split", [product, edit.ints(*sizes)], {"axis": -1}, outputs=len(group))
    for part, projection in zip(parts, group, strict=True):
        _describe(part, projection.output, projection.matrix.shape[1])
        ir.convenience.replace_all_uses_with(projection.output, part)


def _describe(value: ir.Value, like: ir.Value, size: int) -> None:
    copy_type(like, value)
    value.shape = None if like.shape is None else ir.Shape([*list(like.shape)[:-1], size])
