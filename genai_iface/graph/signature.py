# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The signature of a graph: what drives it, as data.

``derive`` fills it by walking the graph; backends read it and need not look at the graph again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from genai_iface.types import CacheSpec

__all__ = ["CacheTensor", "Evidence", "GraphSignature", "InputRole", "StateTensor"]

InputRole: TypeAlias = Literal[
    "input_ids",
    "position_ids",
    "write_indices",
    "counts",
    "nonpad_kv_seqlen",
    "attention_mask",
    "seqlens_k",
    "total_sequence_length",
]
"""What a graph input means.

- input_ids: integer (B, S), token ids.
- position_ids: integer (B, S), absolute positions of these tokens.
- write_indices: int64 (B,), the position of each row's first new token (TensorScatter).
- counts: int64 (B,), how many of the S tokens of each row are real, for graphs that keep states.
- nonpad_kv_seqlen: int64 (B,), valid positions of each row after the write (Attention).
- attention_mask: integer or bool (B, P + S), 1 for valid past and new tokens.
- seqlens_k: int32 (B,), valid positions after the write, minus one (GroupQueryAttention).
- total_sequence_length: int32 scalar, the longest row after the write (GroupQueryAttention).
"""


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """One key or value tensor of one layer.

    Attributes:
        layer: Index into ``CacheSpec.layers``.
        kind: "key" or "value".
        past: Name of the graph input that takes it.
        present: Name of the graph output that gives it back.
    """

    layer: int
    kind: Literal["key", "value"]
    past: str
    present: str


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One state.

    Attributes:
        state: Index into ``CacheSpec.states``.
        past: Name of the graph input that takes it, (B, ...).
        present: Name of the graph output that gives it back.
        is_counted: Whether the graph leaves it alone at padding, as the input of the role ``counts`` says. If not,
            every token of a run goes into it.
    """

    state: int
    past: str
    present: str
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why one graph input or output was given its role.

    Attributes:
        subject: Name of the input or output.
        role: The role, for example "write_indices" or "past key of layer 3".
        reason: The edge or property that shows it.
    """

    subject: str
    role: str
    reason: str


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """How to drive one graph.

    Attributes:
        inputs: Graph input name by role; roles that the graph lacks are absent.
        input_dtypes: Element type of each of these inputs, by role ("int64", "int32", "bool", ...).
        logits: Name of the logits output, shape (B, S, V) or (B, 1, V).
        logits_dtype: Its element type.
        vocab_size: V, the last axis of the logits.
        cache: Style, layout and per-layer shapes of the cache.
        cache_tensors: Keys and values, two per layer, in layer order, the key first.
        max_positions: Positions that the graph's own position tables hold, or None.
        opset: Version of the default operator domain.
        evidence: Why each role was given.
        state_tensors: The states, in the order of ``CacheSpec.states``.
        one_token: A run takes one token of each row: the graph fixes the width of input_ids to 1, as decoders without a
            prompt's form do.
        one_row: A run takes one row: the graph fixes the batch axis of input_ids to 1, as traces of a single prompt do.
    """

    inputs: Mapping[InputRole, str]
    input_dtypes: Mapping[InputRole, str]
    logits: str
    logits_dtype: str
    vocab_size: int
    cache: CacheSpec
    cache_tensors: tuple[CacheTensor, ...]
    max_positions: int | None
    opset: int
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)
    state_tensors: tuple[StateTensor, ...] = ()
    one_token: bool = False
    one_row: bool = False
