# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Arithmetic in bfloat16 that a model of another type has in a corner, by way of float32."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import op
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["WidenBfloat16"]

# Of these, float32 rounded to bfloat16 is what bfloat16 itself gives: it has more than twice the digits.
_EXACT = frozenset({"Add", "Sub", "Mul", "Div"})


class WidenBfloat16(Rewrite):
    """Computes sums and products of bfloat16 in float32, and rounds them as before. Exact.

    Falcon has the slopes of ALiBi in bfloat16 whatever its weights are, and CPU kernels know no such product.
    """

    name = "widen-bfloat16"

    def rewrite(self, model: ir.Model) -> Note:
        """Mends every node."""
        edit = Editor(model.graph, "widen_bfloat16")
        count = 0
        for node in list(model.graph):
            ends = (*node.inputs, node.outputs[0])
            if op(node) not in _EXACT or node.outputs[0].is_graph_output():
                continue
            if any(value is None or value.dtype != ir.DataType.BFLOAT16 for value in ends):
                continue
            for index, value in enumerate(list(node.inputs)):
                (wide,) = edit.before(node, "Cast", [value], {"to": ir.DataType.FLOAT.value})
                wide.dtype, wide.shape = ir.DataType.FLOAT, value.shape if value is not None else None
                node.replace_input_with(index, wide)
            result = node.outputs[0]
            uses = list(result.uses())
            (narrow,) = edit.after(node, "Cast", [result], {"to": ir.DataType.BFLOAT16.value})
            narrow.dtype, narrow.shape = ir.DataType.BFLOAT16, result.shape
            for user, index in uses:
                user.replace_input_with(index, narrow)
            result.dtype = ir.DataType.FLOAT
            count += 1
        if not count:
            return self.said(0, "nothing is computed in bfloat16")
        return self.said(count, f"{count} sums and products of bfloat16 are computed in float32")
