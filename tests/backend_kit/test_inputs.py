# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The values of graph inputs, role by role, and what a graph's signature asks of a plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genai_iface import CacheSpec, InvalidInputError, LayerCacheSpec, ModelSpec
from genai_iface.backend_kit import (
    GraphInputs,
    GraphRun,
    capacity_bound,
    check_batch_and_capacity,
    check_loaded,
    check_step,
)
from genai_iface.graph import GraphSignature

RUN = GraphRun(slice(0, 2), slice(1, 4), np.array([6, 1]), np.array([3, 1]))
STEP = check_step(
    [[1, 2, 3, 4], [5, 6, -1, -1]], [4, 2], "last", lengths=np.array([5, 0]), capacity=20, vocab_size=9
)  # fmt: skip


def layers(*windows: int | None) -> tuple[LayerCacheSpec, ...]:
    return tuple(LayerCacheSpec(1, 2, 2, "float32", "circular" if window else "linear", window) for window in windows)


def signature(
    *roles: Any, style: Any = "scatter", windows: tuple[int | None, ...] = (None,), dtype: str = "int64"
) -> Any:
    return GraphSignature(
        inputs={role: f"the_{role}" for role in roles},
        input_dtypes=dict.fromkeys(roles, dtype),
        logits="logits",
        logits_dtype="float32",
        vocab_size=9,
        cache=CacheSpec(style, "bnsh", layers(*windows)),
        cache_tensors=(),
        max_positions=None,
        opset=24,
    )


def feeds(
    *roles: Any, context_length: int | None = None, mask_width: int | None = None, **fields: Any
) -> dict[str, Any]:
    inputs = GraphInputs(signature(*roles, **fields), context_length=context_length)
    return {name: array.tolist() for name, array in inputs.feeds(STEP, RUN, mask_width=mask_width).items()}


def test_the_roles_of_a_standard_graph() -> None:
    assert feeds("input_ids", "position_ids", "write_indices", "nonpad_kv_seqlen") == {
        "the_input_ids": [[2, 3, 4], [6, 0, 0]],
        "the_position_ids": [[6, 7, 8], [1, 2, 3]],
        "the_write_indices": [6, 1],
        # Padding is counted: the causal offset is this less the width.
        "the_nonpad_kv_seqlen": [9, 4],
    }


def test_element_types_are_those_of_the_graph() -> None:
    inputs = GraphInputs(signature("input_ids", "attention_mask", dtype="int32"), context_length=None)
    assert {array.dtype.name for array in inputs.feeds(STEP, RUN).values()} == {"int32"}


def test_masks_are_as_wide_as_the_longest_row_or_as_asked_for() -> None:
    assert feeds("attention_mask") == {"the_attention_mask": [[1] * 9, [1] * 4 + [0] * 5]}
    assert feeds("attention_mask", mask_width=12) == {"the_attention_mask": [[1] * 9 + [0] * 3, [1] * 4 + [0] * 8]}


def test_positions_of_padding_stay_below_the_context() -> None:
    assert feeds("position_ids", context_length=8)["the_position_ids"] == [[6, 7, 7], [1, 2, 3]]


@pytest.mark.parametrize(("windows", "valid"), [((5, 5), [5, 4]), ((5, None), [9, 4]), ((5, 7), [9, 4])])
def test_valid_lengths_end_at_the_window_where_all_layers_have_the_same(windows: Any, valid: list[int]) -> None:
    assert feeds("nonpad_kv_seqlen", windows=windows)["the_nonpad_kv_seqlen"] == valid


def test_the_roles_of_shared_buffers() -> None:
    assert feeds("seqlens_k", "total_sequence_length", style="shared") == {
        "the_seqlens_k": [8, 3],
        "the_total_sequence_length": 9,
    }
    inputs = GraphInputs(signature("seqlens_k", "total_sequence_length", style="shared"), context_length=None)
    prompt = GraphRun(slice(0, 2), slice(0, 4), np.array([0, 0]), np.array([4, 2]))
    # Of a prompt the operator takes the padding as such.
    assert {name: array.tolist() for name, array in inputs.feeds(STEP, prompt).items()} == {
        "the_seqlens_k": [3, 1],
        "the_total_sequence_length": 4,
    }
    given = inputs.by_role(STEP, RUN, valid=np.array([9, 2]), total=64)
    assert (given["seqlens_k"].tolist(), given["total_sequence_length"].tolist()) == ([8, 1], 64)


def test_what_a_graph_asks_of_a_plan() -> None:
    plain = GraphInputs(signature("input_ids", "write_indices", windows=(9, None, 5)), context_length=30).rules
    assert (plain.window, plain.max_positions) == (5, 30)
    moved = GraphInputs(signature("position_ids"), context_length=30).rules
    assert (moved.window, moved.max_positions) == (None, None)
    # GroupQueryAttention rotates by tables of its own, whatever position_ids say.
    assert GraphInputs(signature("position_ids", style="shared"), context_length=30).rules.max_positions == 30


@pytest.mark.parametrize(
    ("context_length", "windows", "bound"), [(30, (None,), 30), (None, (8,), None), (None, (None,), None)]
)
def test_capacity_bound(context_length: int | None, windows: Any, bound: int | None) -> None:
    assert capacity_bound(ModelSpec(9, context_length, CacheSpec("scatter", "bnsh", layers(*windows)))) == bound


def test_a_fixed_linear_buffer_bounds_the_capacity() -> None:
    fixed = LayerCacheSpec(1, 2, 2, "float32", "linear", 12)
    spec = ModelSpec(9, 30, CacheSpec("scatter", "bnsh", (*layers(8), fixed)))
    assert capacity_bound(spec) == 12
    assert check_batch_and_capacity(1, None, 12) == 12
    assert check_batch_and_capacity(1, 5, 12) == 5
    assert check_batch_and_capacity(1, None, None) == 2**31 - 1
    with pytest.raises(InvalidInputError, match="beyond the 12 tokens"):
        check_batch_and_capacity(1, 13, 12)


def test_closed_models() -> None:
    assert check_loaded("runtime") == "runtime"
    with pytest.raises(InvalidInputError, match="The model is closed"):
        check_loaded(None)
