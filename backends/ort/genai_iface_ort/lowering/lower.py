# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Load-time lowering: the graph as it is on disk -> the graph that ONNX Runtime runs fastest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import onnx_ir as ir
from onnxruntime.capi import onnxruntime_pybind11_state

from genai_iface.graph import GraphSignature, infer_shapes
from genai_iface.transform import Note, apply_standard
from genai_iface_ort.lowering.grouped_query import GroupQuery
from genai_iface_ort.lowering.skip_norm import SkipNorm

__all__ = ["Level", "Lowered", "has_query_seqlens", "lower"]

Level = Literal["none", "standard", "runtime"]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A lowered graph and what drives it.

    Attributes:
        model: The graph; local functions inlined.
        signature: Its signature. The style may have become "shared", and the layout "bnsh".
        notes: What each rewrite did, or why it did nothing.
        logits_positions: Graph input, int64 (B, K): the columns of input_ids whose logits are wanted. The
            logits have the shape (B, K, V). None if the graph computes all of them.
        query_seqlens: Graph input, int32 (B,): real tokens of each row in this step (``counts``). With it
            seqlens_k is max(lengths + counts, 1) - 1 and total_sequence_length the largest of lengths + counts.
            The padded step has to fit, lengths + S <= C; padding is not written. None if there is none:
            then seqlens_k is lengths + S - 1.
        ragged_multi_token: Whether a step with S > 1 may have several rows with a past of their own. If
            not, such a step has to be run row by row.
    """

    model: ir.Model
    signature: GraphSignature
    notes: tuple[Note, ...]
    logits_positions: str | None = None
    query_seqlens: str | None = None
    ragged_multi_token: bool = True


def lower(model: ir.Model, signature: GraphSignature, *, level: Level, device_kind: str = "cpu") -> Lowered:
    """Lowers a graph. Each rewrite is exact; what does not hold for this graph is left out and noted.

    Args:
        model: The model, local functions inlined. It is changed in place.
        signature: The signature that was derived from the graph.
        level: "none" leaves it alone; "standard" keeps to standard operators; "runtime" uses ONNX Runtime's own.
        device_kind: "cpu" or "cuda".
    """
    if level == "none":
        return Lowered(model, signature, ())
    standard = apply_standard(model, signature)
    if level == "standard":
        return Lowered(model, signature, standard.notes, standard.logits_positions)
    group = GroupQuery(signature, device_kind=device_kind, has_query_seqlens=has_query_seqlens())
    group(model)
    infer_shapes(model)
    norm = SkipNorm(device_kind)
    norm(model)
    return Lowered(
        model,
        group.signature,
        (*standard.notes, group.note, norm.note),
        standard.logits_positions,
        group.query_seqlens,
        group.query_seqlens is not None or not group.note.applied,
    )


@cache
def has_query_seqlens() -> bool:
    """Whether the installed runtime's GroupQueryAttention takes query_seqlens."""
    schemas = onnxruntime_pybind11_state.get_all_operator_schema()
    found = [schema for schema in schemas if schema.name == "GroupQueryAttention" and schema.domain == "com.microsoft"]
    return any(each.name == "query_seqlens" for schema in found for each in schema.inputs)
