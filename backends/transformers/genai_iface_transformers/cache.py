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

from genai_iface.backend_kit import check_indices, check_lengths, check_rows
from genai_iface.errors import CacheRewindError, InvalidInputError
from genai_iface.types import CacheSpec, UpdateMode

__all__ = ["TransformersCache"]


class TransformersCache:
    """Implements ``KVCache``, ``SupportsFork`` and ``SupportsInspect``.

    Args:
        config: The model's Transformers configuration; sliding windows follow from it.
        spec: The cache's shape.
        batch_size: B.
        capacity: Most tokens per row.
    """

    def __init__(self, config: Any, spec: CacheSpec, /, *, batch_size: int, capacity: int) -> None:
        self._config = config
        self._spec = spec
        self._capacity = capacity
        self._rows = [self._empty() for _ in range(batch_size)]
        self._lengths = np.zeros(batch_size, np.int64)
        self._closed = False

    # What the protocol asks for.

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Most tokens per row."""
        return self._capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 (B,), a copy."""
        return self._lengths.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for row in self._rows for layer in row.layers for tensor in _tensors(layer))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token of one row over all layers."""
        return self._spec.bytes_per_token

    @property
    def update_mode(self) -> UpdateMode:
        """A step makes new tensors: it concatenates."""
        return "copied"

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed."""
        return self._first_lost_row(check_lengths(lengths, self._lengths)) is None

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows."""
        wanted = check_lengths(lengths, self._lengths)
        lost = self._first_lost_row(wanted)
        if lost is not None:
            reason = "a sliding-window layer has dropped tokens that it would need"
            raise CacheRewindError(lost, int(wanted[lost]), int(self._lengths[lost]), reason)
        for row, (old, new) in enumerate(zip(self._lengths.tolist(), wanted.tolist(), strict=True)):
            if new == 0:
                self._rows[row] = self._empty()
            elif new < old:
                self._rows[row].crop(new - old)
        self._lengths = wanted

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        self.check_open()
        wanted = check_indices(indices, self.batch_size)
        # A step replaces tensors and never writes to them, but a crop keeps a view: copies share nothing.
        self._rows = [copy.deepcopy(self._rows[index]) for index in wanted]
        self._lengths = self._lengths[wanted]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self.check_open()
        for row in check_rows(rows, self.batch_size).tolist():
            self._rows[row] = self._empty()
            self._lengths[row] = 0

    def close(self) -> None:
        """Frees the tensors."""
        self._rows = []
        self._closed = True

    def fork(self) -> TransformersCache:
        """An independent copy."""
        self.check_open()
        fork = TransformersCache(self._config, self._spec, batch_size=0, capacity=self._capacity)
        fork._rows = copy.deepcopy(self._rows)
        fork._lengths = self._lengths.copy()
        return fork

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D), oldest first."""
        self.check_open()
        num_layers = len(self._spec.layers)
        if not 0 <= layer < num_layers or not 0 <= row < self.batch_size:
            raise InvalidInputError(
                f"layer {layer}, row {row} is not in a cache of {num_layers} layers, {self.batch_size} rows",
                remedy="Count both from 0.",
            )
        shape = self._spec.layers[layer]
        layers = self._rows[row].layers
        tensors = _tensors(layers[layer]) if self._lengths[row] and layer < len(layers) else []
        if not tensors:
            empty = np.zeros((shape.num_kv_heads, 0, shape.key_head_dim), np.float32)
            return empty, empty.copy()
        keys, values = (tensor[0].numpy().copy() for tensor in tensors)
        return keys, values

    # What the model uses.

    @property
    def spec(self) -> CacheSpec:
        """The cache's shape; the very object of the model that made the cache."""
        return self._spec

    @property
    def rows(self) -> list[DynamicCache]:
        """Transformers' caches, one per row."""
        return self._rows

    def check_open(self) -> None:
        """Raises InvalidInputError if the cache is closed."""
        if self._closed:
            raise InvalidInputError("The cache is closed", remedy="Create another with model.create_cache().")

    def advance(self, counts: NDArray[np.int64], /) -> None:
        """Books a finished step."""
        self._lengths = self._lengths + counts

    # Internal.

    def _empty(self) -> DynamicCache:
        return DynamicCache(config=self._config)

    def _first_lost_row(self, wanted: NDArray[np.int64]) -> int | None:
        windows = [layer.capacity for layer in self._spec.layers if layer.mode == "circular" and layer.capacity]
        for window in windows[:1]:
            lost = (self._lengths >= window) & (wanted < self._lengths) & (wanted > 0)
            if lost.any():
                return int(np.flatnonzero(lost)[0])
        return None


def _tensors(layer: Any) -> list[torch.Tensor]:
    """Keys and values of a layer that holds any."""
    return [tensor for tensor in (layer.keys, layer.values) if tensor is not None] if layer.is_initialized else []
