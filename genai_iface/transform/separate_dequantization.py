# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Gives each product with a quantized matrix a dequantization of its own."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor, is_transpose
from genai_iface.graph._walk import is_op
from genai_iface.transform._weights import Matrix, copied, matrix_of, transposed
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["SeparateDequantization"]


class SeparateDequantization(Rewrite):
    """Gives each product constants and a DequantizeLinear of its own, along K, with no Transpose in between.

    Only in this form do runtimes fuse the pair into a product with a quantized matrix: ONNX Runtime
    leaves it as it is where the constants or the dequantized matrix have another reader.

    Precondition: the matrix is constant, in blocks along K.
    """

    name = "separate-dequantization"

    def rewrite(self, model: ir.Model) -> Note:
        """Rewrites every product whose matrix is shared or transposed."""
        edit = Editor(model.graph, self.name.replace("-", "_"))
        count = 0
        for node in list(model.graph):
            weight = node.inputs[1] if is_op(node, "MatMul") else None
            producer = None if weight is None else weight.producer()
            if weight is None or producer is None:
                continue
            turned = is_transpose(producer, (1, 0))
            matrix = matrix_of(producer.inputs[0] if turned else weight)
            if matrix is None or matrix.dequantize is None or matrix.axis != int(turned):
                continue
            if turned:
                node.replace_input_with(1, transposed(edit, node, "table", matrix))
                count += 1
            elif _is_shared(weight, matrix):
                node.replace_input_with(1, copied(edit, node, "matrix", matrix))
                count += 1
        if count:
            return self.said(count, f"{count} products dequantize a matrix of their own")
        return self.said(0, "no quantized matrix is shared or transposed")


def _is_shared(weight: ir.Value, matrix: Matrix) -> bool:
    return len(weight.uses()) > 1 or any(len(part.uses()) > 1 for part in matrix.parts)
