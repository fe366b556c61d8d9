# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Add + RMSNormalization -> SkipSimplifiedLayerNormalization."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph import Editor, attribute, copy_type, is_op, rank, same_dims
from genai_iface.transform import Note, Rewrite

__all__ = ["SkipNorm"]

_CPU_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_CUDA_TYPES = (*_CPU_TYPES, ir.DataType.BFLOAT16)


class SkipNorm(Rewrite):
    """One kernel for the residual sum and the norm after it; the sum is an output where it is read again.

    Precondition: both summands have rank 3 and are known to have equal shapes; the norm is over the
    last axis with a scale of the same type.

    Args:
        device_kind: "cpu" or "cuda".
    """

    name = "skip-norm"

    def __init__(self, device_kind: str = "cpu") -> None:
        super().__init__()
        self._types = _CUDA_TYPES if device_kind == "cuda" else _CPU_TYPES

    def rewrite(self, model: ir.Model) -> Note:
        """Fuses every such pair."""
        edit = Editor(model.graph, "skip_norm")
        count, reason = 0, "no RMSNormalization of a sum"
        for node in list(model.graph):
            if not is_op(node, "RMSNormalization"):
                continue
            add = node.inputs[0].producer() if node.inputs[0] is not None else None
            if add is None or not is_op(add, "Add"):
                continue
            refusal = self._refusal(node, add)
            if refusal:
                reason = refusal
                continue
            _fuse(edit, node, add)
            count += 1
        if count:
            model.graph.opset_imports.setdefault("com.microsoft", 1)
            return self.said(count, f"{count} sums and norms became one kernel each")
        return self.said(0, reason)

    def _refusal(self, norm: ir.Node, add: ir.Node) -> str:
        left, right = add.inputs[0], add.inputs[1]
        total, scale = add.outputs[0], norm.inputs[1]
        if left is None or right is None or scale is None:
            return "an input is missing"
        if total.is_graph_output() or norm.outputs[0].is_graph_output():
            return "the sum or its norm is a graph output"
        if rank(total) != 3 or attribute(norm, "axis", -1) not in (-1, 2) or rank(scale) != 1 or scale.producer():
            return "a norm is not over the last axis of (B, S, H)"
        if attribute(norm, "stash_type", 1) != 1:
            return "a norm is not computed in float32"
        if not same_dims(left, right):
            return "the summands are not known to have equal shapes"
        kind = total.dtype or norm.outputs[0].dtype or scale.dtype
        if kind not in self._types or scale.dtype != kind:
            return f"the kernel does not take {kind.name if kind else 'unknown types'}"
        return ""


def _fuse(edit: Editor, norm: ir.Node, add: ir.Node) -> None:
    total = add.outputs[0]
    # The sum has to exist before its first other reader, so the fused node takes the Add's place.
    normed, _, _, summed = edit.before(
        add,
        "SkipSimplifiedLayerNormalization",
        [add.inputs[0], add.inputs[1], norm.inputs[1]],
        {"epsilon": attribute(norm, "epsilon", 1e-5)},
        domain="com.microsoft",
        outputs=4,
    )
    for value, like in ((normed, norm.outputs[0]), (summed, total)):
        copy_type(like, value)
        value.shape = like.shape
    normed.producer().outputs[1].name = normed.producer().outputs[2].name = ""  # type: ignore[union-attr]
    ir.convenience.replace_all_uses_with(norm.outputs[0], normed)
    ir.convenience.replace_all_uses_with(total, summed)
    if not [node for node, _ in summed.uses() if node is not norm]:
        summed.name = ""
