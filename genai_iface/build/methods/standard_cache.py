# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A cache for Transformers while a network is traced, and the write that exports as TensorScatter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from genai_iface.build.methods.step.length import StepLength
from genai_iface.types import CacheLayout

__all__ = ["OPSET", "NewTokensLayer", "scatter"]

OPSET = 24
"""The operator set that is written: the first with TensorScatter, and the last with kernels everywhere."""


class NewTokensLayer(CacheLayerMixin):
    """A layer that keeps nothing: attention gets the keys and values of the new tokens and writes them itself.

    What a network does to keys between its cache and its attention (latent attention expands them) is then
    done once for each token, and the buffers hold what attention reads.

    Args:
        capacity: Positions of the buffers, for the sizes of masks.
        index: Writes the keys of an indexer, and returns what stands for all of them; None to have no room for any.
    """

    is_sliding = False

    def __init__(self, capacity: Any, index: Callable[[torch.Tensor], Any] | None = None) -> None:
        super().__init__()
        self._capacity = capacity
        if index is not None:
            # Networks ask a layer by this name whether it has room for the keys of an indexer.
            self.update_indexer = index
        self._lengths = torch.zeros(1, dtype=torch.int64)
        self.is_initialized = True

    def __deepcopy__(self, _: Any) -> NewTokensLayer:
        """Networks that run layers several times (Dory) copy those of a cache; here there is nothing to be apart."""
        return copy.copy(self)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: there are no buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what it is given."""
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[Any, int]:
        """The number of positions, and that the first of them is token 0."""
        return self._capacity, 0

    def begin_step(self, write_indices: torch.Tensor) -> None:
        """Tells the layer how many tokens each row has, int64 (B,)."""
        self._lengths = write_indices

    def get_seq_length(self) -> int:
        """What stands for a length that differs from row to row."""
        return StepLength(self._lengths)

    def get_max_length(self) -> int:
        """No limit that Transformers should know of."""
        return -1


def scatter(past: torch.Tensor, update: torch.Tensor, write_indices: torch.Tensor, layout: CacheLayout) -> torch.Tensor:
    """TensorScatter: the buffer with the new tokens of each row from its write index on.

    Args:
        past: (B, Hkv, C, D), or (B, C, Hkv * D) in the layout "bsh".
        update: (B, Hkv, S, D).
        write_indices: int64 (B,), the position of each row's first new token.
        layout: Which of the two.

    Returns:
        A tensor like ``past``; outside of an export its content is meaningless.
    """
    if layout == "bsh":
        update = update.transpose(1, 2).reshape(update.shape[0], update.shape[2], past.shape[2])
    attributes: dict[str, Any] = {"axis": 2 if layout == "bnsh" else 1, "mode": "linear"}
    return torch.onnx.ops.symbolic(
        "TensorScatter",
        (past, update, write_indices),
        attributes,
        dtype=past.dtype,
        shape=past.shape,
        version=OPSET,
    )
