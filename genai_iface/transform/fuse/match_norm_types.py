# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One element type for the input and the weight of RMSNormalization."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import input_at, is_op
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["MatchNormTypes"]


class MatchNormTypes(Rewrite):
    """Casts the input of an RMSNormalization to the type of its weight, where they differ.

    A norm that multiplies with a float32 weight before it goes back to float16 (Gemma, OLMo 2) is fused by
    onnxscript into a node with a float16 input and a float32 weight, which runtimes reject. The cast was in
    the graph before; with it the numbers are those of the unfused graph.

    Precondition: both types are known, the input is float16 or bfloat16, the weight float32.
    """

    name = "match-norm-types"

    def rewrite(self, model: ir.Model) -> Note:
        """Mends every node."""
        edit = Editor(model.graph, "match_norm_types")
        count = 0
        for node in list(model.graph):
            x, scale = input_at(node, 0), input_at(node, 1)
            if not is_op(node, "RMSNormalization") or x is None or scale is None:
                continue
            narrow = x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
            if not narrow or scale.dtype != ir.DataType.FLOAT:
                continue
            (wide,) = edit.before(node, "Cast", [x], {"to": ir.DataType.FLOAT.value})
            wide.dtype, wide.shape = ir.DataType.FLOAT, x.shape
            node.replace_input_with(0, wide)
            node.outputs[0].dtype = ir.DataType.FLOAT
            count += 1
        if not count:
            return self.said(0, "no RMSNormalization has an input narrower than its weight")
        return self.said(count, f"the input of {count} norms is cast to the type of the weight")
