# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The cache: one ``DynamicCache`` of Transformers per row, so that no row is ever padded."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import DynamicCache

from genai_iface.backend_kit import RowLengths
from genai_iface.types import CacheSpec, UpdateMode

__all__ = ["TransformersCache"]


class TransformersCache:
    """Implements ``KVCache``, ``SupportsFork`` and ``SupportsInspect``.

    Args:
        config: The model's Transformers configuration; sliding windows follow from it.
        spec: The cache's shape.
        rows: The rows' lengths, all 0.

    Attributes:
        rows: The rows' lengths.
        contents: Transformers' caches, one per row.
        update_mode: "copied": a step makes new tensors, it concatenates.
    """

    update_mode: UpdateMode = "copied"

    def __init__(self, config: Any, spec: CacheSpec, rows: RowLengths, /) -> None:
        self._config = config
        self._spec = spec
        self.rows = rows
        self.contents = [self._empty() for _ in range(rows.batch_size)]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.rows.batch_size

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self.rows.capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 (B,), a copy."""
        return self.rows.lengths

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for row in self.contents for layer in row.layers for tensor in _tensors(layer))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token of one row over all layers."""
        return self._spec.bytes_per_token

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed."""
        return self.rows.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows."""
        wanted = self.rows.check_rewind(lengths)
        for row, (old, new) in enumerate(zip(self.lengths.tolist(), wanted.tolist(), strict=True)):
            if new == 0:
                self.contents[row] = self._empty()
            elif new < old:
                self.contents[row].crop(new - old)
        self.rows.rewind_to(wanted)

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        wanted = self.rows.check_reorder(indices)
        # A step replaces tensors and never writes to them, but a crop keeps a view: copies share nothing.
        self.contents = [copy.deepcopy(self.contents[index]) for index in wanted]
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        for row in self.rows.check_reset(rows):
            self.contents[row] = self._empty()
        self.rows.reset(rows)

    def close(self) -> None:
        """Frees the tensors."""
        self.rows.close()
        self.contents = []

    def fork(self) -> TransformersCache:
        """An independent copy."""
        twin = copy.copy(self)
        twin.rows, twin.contents = self.rows.fork(), copy.deepcopy(self.contents)
        return twin

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D), oldest first."""
        length = self.rows.check_read(layer, row, len(self._spec.layers))
        shape = self._spec.layers[layer]
        layers = self.contents[row].layers
        tensors = _tensors(layers[layer]) if length and layer < len(layers) else []
        if not tensors:
            empty = np.zeros((shape.num_kv_heads, 0, shape.key_head_dim), np.float32)
            return empty, empty.copy()
        keys, values = (tensor[0].numpy().copy() for tensor in tensors)
        return keys, values

    # What the model uses.

    def next_contents(self) -> list[DynamicCache]:
        """What a step may run on: other caches over the same tensors, so that a step that fails leaves no trace."""
        twins = [copy.copy(row) for row in self.contents]
        for twin in twins:
            twin.layers = [copy.copy(layer) for layer in twin.layers]
        return twins

    def _empty(self) -> DynamicCache:
        return DynamicCache(config=self._config)


def _tensors(layer: Any) -> list[torch.Tensor]:
    """Keys and values of a layer that holds any."""
    return [tensor for tensor in (layer.keys, layer.values) if tensor is not None] if layer.is_initialized else []
