# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Caches of a RotaryEmbedding for every row of the batch, where they were made for one."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.graph._edit import Editor
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import input_at, is_op, rank
from genai_iface.transform.fuse._rotary_factors import for_every_row, same_rows
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["MatchRotaryBatch"]


class MatchRotaryBatch(Rewrite):
    """Repeats cos and sin of batch 1 for all rows: RotaryEmbedding without position ids does not broadcast them.

    Without a position_ids input an exported model computes cos and sin once for all rows, (1, S, R / 2), and the
    products broadcast; a RotaryEmbedding that was put in their place fails on a second row.

    Precondition: caches of rank 3, not known to have as many rows as the input.
    """

    name = "match-rotary-batch"

    def rewrite(self, model: ir.Model) -> Note:
        """Mends every RotaryEmbedding."""
        infer_shapes(model)
        edit = Editor(model.graph, "match_rotary_batch")
        count = 0
        for node in list(model.graph):
            x, caches = input_at(node, 0), [input_at(node, 1), input_at(node, 2)]
            if not is_op(node, "RotaryEmbedding") or input_at(node, 3) is not None or x is None:
                continue
            if any(each is None or rank(each) != 3 or same_rows(each, x) for each in caches):
                continue
            for index, cache in enumerate(caches, 1):
                if cache is not None:
                    node.replace_input_with(index, for_every_row(edit, node, cache, x))
            count += 1
        if not count:
            return self.said(0, "every RotaryEmbedding has caches for all rows, or position ids")
        return self.said(count, f"the caches of {count} RotaryEmbedding nodes are repeated for every row")
