# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Token tables in a graph: which lookups read a float one, and reading its integers instead."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from genai_iface.graph._edit import Editor, constant_tensor, copy_type, replace_value
from genai_iface.graph._walk import attribute, is_op, rank
from genai_iface.transform.quantize._source import FloatMatrix

__all__ = ["replace_lookup", "table_of"]


def table_of(node: ir.Node) -> FloatMatrix | None:
    """The float table (V, H) whose rows a Gather looks up, as the matrix (H, V)."""
    ids = node.inputs[1] if is_op(node, "Gather") else None
    if ids is None or attribute(node, "axis", 0) != 0 or rank(ids) is None:
        return None
    tensor = constant_tensor(node.inputs[0])
    if tensor is None or len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
        return None
    return FloatMatrix(tensor, is_transposed=True)


def replace_lookup(edit: Editor, node: ir.Node, parts: Sequence[ir.Value], block: int, *, is_turned: bool) -> None:
    """Looks integers up, and dequantizes what was found.

    Args:
        edit: Of the graph.
        node: The Gather.
        parts: Integers of bytes, scales, perhaps zero points: (V, H), or of the product with the same table (H, V).
        block: Elements of H with one scale.
        is_turned: The parts are (H, V).
    """
    ids, given = node.inputs[1], node.outputs[0]
    axis, blocked = (1, 0) if is_turned else (0, -1)
    found = [edit.before(node, "Gather", [part, ids], {"axis": axis})[0] for part in parts]
    (value,) = edit.before(node, "DequantizeLinear", found, {"axis": blocked, "block_size": block})
    copy_type(given, value)
    axes = None if ids is None else rank(ids)
    if is_turned and axes is not None:
        (value,) = edit.before(node, "Transpose", [value], {"perm": [*range(1, axes + 1), 0]})
        copy_type(given, value)
    value.shape = given.shape
    replace_value(given, value)
