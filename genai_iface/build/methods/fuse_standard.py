# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Every fusion to standard operators: onnxscript's, at any opset from 23, then ours for what they leave."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, NameFixPass, RemoveUnusedNodesPass

from genai_iface.errors import UnsupportedModelError
from genai_iface.transform.fuse.match_norm_types import MatchNormTypes
from genai_iface.transform.fuse.match_rotary_batch import MatchRotaryBatch
from genai_iface.transform.fuse.partial_rotary import FusePartialRotary
from genai_iface.transform.fuse.rms_norm import FuseRmsNorm
from genai_iface.transform.fuse.rotary import FuseRotary
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["fuse_standard"]

_FIRST_OPSET = 23  # RMSNormalization, RotaryEmbedding


def fuse_standard(model: ir.Model) -> tuple[Note, ...]:
    """Fuses written-out norms and rotations into RMSNormalization and RotaryEmbedding. Exact.

    Args:
        model: A model of opset 23 or newer, functions inlined. It is changed in place.

    Returns:
        What each fusion did, in their order.

    Raises:
        UnsupportedModelError: The opset is older and has no such operators.
    """
    # onnxscript's own entry does this at opset 23 only; the rules themselves ask for nothing newer.
    from onnxscript.rewriter.rules.fusion import _rms_normalization, _rotary_embedding

    opset = model.opset_imports.get("", 0)
    if opset < _FIRST_OPSET:
        raise UnsupportedModelError(
            f"the model is of opset {opset}, which has no RMSNormalization and no RotaryEmbedding",
            remedy="export it with opset_version=23 or newer",
        )
    notes = []
    for name, fuse in (
        ("onnxscript rms_normalization", _rms_normalization.fuse_rms_normalization),
        ("onnxscript rotary_embedding", _rotary_embedding.fuse_rotary_embedding),
    ):
        count = fuse(model)
        notes.append(Note(name, count, f"{count} fused"))
    passes: tuple[Rewrite, ...] = (
        FuseRmsNorm(),
        MatchNormTypes(),
        FuseRotary(),
        MatchRotaryBatch(),
        FusePartialRotary(),
    )
    for rewrite in passes:
        rewrite(model)
        notes.append(rewrite.note)
    # Each fused node came with a Cos and a Sin of its own.
    for clean in (NameFixPass(), CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass()):
        clean(model)
    return tuple(notes)
