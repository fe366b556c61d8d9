# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Masks that the standard Attention's attributes cannot say, as boolean tensors of the graph.

Attention-24 knows "causal" and the valid length of a row, not a sliding window or a chunk. Such a mask is
computed once for each kind of layer, from where each row's new tokens stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import causal_mask_function

__all__ = ["causal_mask", "explicit_mask"]


def explicit_mask(
    mask_function: Callable[..., torch.Tensor], positions: torch.Tensor, capacity: Any
) -> torch.Tensor | None:
    """The mask that Transformers describes by a function of indices, for a cache with room to spare.

    Position j of a row's cache holds its token j, so the function of Transformers, which knows tokens only, gives
    the right answer for them. Those that hold nothing yet are beyond every query and so hidden by causality.

    Args:
        mask_function: Takes indices of batch, head, query and key; true where the key may be seen.
        positions: int64 (B, S), the position of each new token in its row.
        capacity: Positions of the cache, a number or a symbol.

    Returns:
        Boolean (B, 1, S, capacity), or None if the mask is no more than causal.
    """
    return None if mask_function is causal_mask_function else causal_mask(mask_function, positions, capacity)


def causal_mask(mask_function: Callable[..., torch.Tensor], positions: torch.Tensor, capacity: Any) -> torch.Tensor:
    """As ``explicit_mask``, for attention that does not know of causality by itself.

    Returns:
        Boolean (B, 1, S, capacity).
    """
    batch = torch.arange(positions.shape[0])[:, None, None, None]
    head = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    keys = torch.arange(capacity)[None, None, None, :]
    mask = mask_function(batch, head, positions[:, None, :, None], keys)
    return mask.expand(positions.shape[0], 1, positions.shape[1], capacity)
