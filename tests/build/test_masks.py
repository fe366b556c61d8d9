# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Explicit masks: what Transformers says of tokens, for positions of a cache and rows of different lengths."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.parity

_STARTS, _WIDTH, _CAPACITY = (0, 5, 11), 3, 16


def mask_of(function: object) -> object:
    import torch

    from genai_iface.build.methods.masks import explicit_mask

    positions = torch.tensor(_STARTS)[:, None] + torch.arange(_WIDTH)
    return explicit_mask(function, positions, _CAPACITY)


@pytest.mark.parametrize("window", [1, 4, 100])
def test_a_window_counts_back_from_each_query(window: int) -> None:
    from transformers.masking_utils import sliding_window_causal_mask_function

    mask = mask_of(sliding_window_causal_mask_function(window))
    assert tuple(mask.shape) == (len(_STARTS), 1, _WIDTH, _CAPACITY)
    for row, start in enumerate(_STARTS):
        for query in range(_WIDTH):
            position = start + query
            seen = [position for position in range(_CAPACITY) if mask[row, 0, query, position]]
            assert seen == list(range(max(0, position - window + 1), position + 1))


def test_chunks_are_masks_too() -> None:
    import torch
    from transformers.masking_utils import chunked_causal_mask_function

    mask = mask_of(chunked_causal_mask_function(4, torch.zeros(len(_STARTS), dtype=torch.int64)))
    for row, start in enumerate(_STARTS):
        for query in range(_WIDTH):
            position = start + query
            seen = [position for position in range(_CAPACITY) if mask[row, 0, query, position]]
            assert seen == list(range(position // 4 * 4, position + 1))


def test_what_is_only_causal_needs_no_mask() -> None:
    from transformers.masking_utils import causal_mask_function

    assert mask_of(causal_mask_function) is None
