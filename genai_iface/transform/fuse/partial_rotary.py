# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RotaryEmbedding on the whole head where only its first part is rotated."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor, copy_type, only_user, replace_value
from genai_iface.graph._walk import attribute, is_op, rank, static_dim
from genai_iface.transform.fuse._last_axis import cut_of, joined
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["FusePartialRotary"]


class FusePartialRotary(Rewrite):
    """A RotaryEmbedding of the first elements, joined with the rest, becomes one with ``rotary_embedding_dim``.

    Precondition: the parts are cut from one value and cover it, nothing else reads the rotated part, and the
    heads are on axis 1, or known in number.
    """

    name = "fuse-partial-rotary"

    def rewrite(self, model: ir.Model) -> Note:
        """Fuses every partial rotation."""
        edit = Editor(model.graph, "fuse_partial_rotary")
        count = sum(_fuse(edit, node) for node in list(model.graph))
        if not count:
            return self.said(0, "no RotaryEmbedding of the first part of a value that is joined with the rest")
        return self.said(count, f"{count} rotations take the whole head")


def _fuse(edit: Editor, node: ir.Node) -> bool:
    parts = joined(node.outputs[0]) if node.outputs else None
    if parts is None or only_user(parts[0]) is not node:
        return False
    rotary, cut, packed = parts[0].producer(), None, False
    if rotary is not None and is_op(rotary, "Reshape"):
        # Heads on axis 2: (B, S, H, R) is rotated as (B, S, H * R).
        packed, rotary = True, None if rotary.inputs[0] is None else rotary.inputs[0].producer()
    if rotary is None or not is_op(rotary, "RotaryEmbedding") or attribute(rotary, "rotary_embedding_dim", 0):
        return False
    x = rotary.inputs[0]
    if packed and x is not None:
        before = x.producer()
        if before is None or not is_op(before, "Reshape") or rank(parts[0]) != 4:
            return False
        x = before.inputs[0]
    cut, rest = cut_of(x), cut_of(parts[1])
    if cut is None or rest is None or cut.whole is not rest.whole or rank(cut.whole) != 4:
        return False
    size, heads = static_dim(cut.whole, -1), static_dim(cut.whole, 2 if packed else 1)
    covered = (cut.start, cut.step, rest.step) == (0, 1, 1) and cut.stop == rest.start and rest.stop == size
    if not covered or heads is None or size is None or static_dim(parts[0], -1) != cut.stop:
        return False
    if packed and not _keeps_heads(rotary, heads):
        return False
    _replace(edit, node, rotary, cut.whole, rotated=cut.stop, heads=heads, packed=packed)
    return True


def _keeps_heads(rotary: ir.Node, heads: int) -> bool:
    return attribute(rotary, "num_heads", 0) == heads


def _replace(
    edit: Editor, node: ir.Node, rotary: ir.Node, whole: ir.Value, *, rotated: int, heads: int, packed: bool
) -> None:
    old, size = node.outputs[0], static_dim(whole, -1) or 0
    attributes = {
        "interleaved": attribute(rotary, "interleaved", 0),
        "num_heads": heads,
        "rotary_embedding_dim": rotated,
    }
    x = whole
    if packed:
        (x,) = edit.before(node, "Reshape", [whole, edit.ints(0, 0, heads * size)])
        copy_type(whole, x)
        x.shape = ir.Shape([*list(whole.shape or ())[:2], heads * size])
    (new,) = edit.before(node, "RotaryEmbedding", [x, *rotary.inputs[1:]], attributes)
    copy_type(whole, new)
    if packed:
        new.shape = x.shape
        (new,) = edit.before(node, "Reshape", [new, edit.ints(0, 0, heads, size)])
        copy_type(whole, new)
    new.shape = old.shape
    replace_value(old, new)
