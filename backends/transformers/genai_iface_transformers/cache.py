# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The cache: one ``DynamicCache`` of Transformers per row, so that no row is ever padded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import DynamicCache

from genai_iface.backend_kit import RowLengths
from genai_iface.display import Displayed, cache_facts
from genai_iface.types import CacheSpec, UpdateMode
from genai_iface_transformers.row_history import RowHistory

__all__ = ["TransformersCache", "has_keys"]


class TransformersCache(Displayed):
    """Implements ``KVCache``, ``SupportsFork``, ``SupportsInspect`` and ``SupportsCheckpoint``.

    Args:
        config: The model's Transformers configuration; sliding windows follow from it.
        spec: The cache's shape.
        rows: The rows' lengths, all 0.

    Attributes:
        rows: The rows' lengths.
        update_mode: "copied": a step makes new tensors, it concatenates.
    """

    update_mode: UpdateMode = "copied"

    def __init__(self, config: Any, spec: CacheSpec, rows: RowLengths, /) -> None:
        self._config = config
        self._spec = spec
        self.rows = rows
        self._contents = [] if spec.states else [self._empty() for _ in range(rows.batch_size)]

    @property
    def contents(self) -> list[DynamicCache]:
        """Transformers' caches, one per row."""
        history = self._history
        return self._contents if history is None else history.contents

    @property
    def _history(self) -> RowHistory | None:
        """What the rows hold and held, for a model that keeps states."""
        states = self.rows.states
        return states if isinstance(states, RowHistory) else None

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return cache_facts(self)

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
        """Bytes of all tensors, and of the states that rows can go back to."""
        layers = (layer for row in self.contents for layer in row.layers)
        held: int = sum(tensor.nbytes for layer in layers for tensor in _tensors(layer))
        return self.rows.state_nbytes + held

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token of one row over all layers."""
        return self._spec.bytes_per_token

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the states of one row."""
        return self._spec.bytes_per_row

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Whether ``rewind_to(lengths)`` would succeed."""
        return self.rows.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Forgets the end of rows."""
        wanted = self.rows.check_rewind(lengths)
        for row, (old, new) in enumerate(zip(self.lengths.tolist(), wanted.tolist(), strict=True)):
            if self._history is not None or new == old:
                continue
            if new == 0:
                self._contents[row] = self._empty()
            else:
                self._contents[row].crop(new - old)
        self.rows.rewind_to(wanted)

    def reorder(self, indices: ArrayLike, /) -> None:
        """Makes row i what row ``indices[i]`` was."""
        wanted = self.rows.check_reorder(indices)
        # A step replaces tensors and never writes to them, but a crop keeps a view: copies share nothing.
        if self._history is None:
            self._contents = [copy.deepcopy(self._contents[index]) for index in wanted]
        self.rows.reorder(wanted)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        for row in self.rows.check_reset(rows) if self._history is None else ():
            self._contents[row] = self._empty()
        self.rows.reset(rows)

    def close(self) -> None:
        """Frees the tensors."""
        self.rows.close()
        self._contents = []

    def fork(self) -> TransformersCache:
        """An independent copy."""
        twin = copy.copy(self)
        twin.rows, twin._contents = self.rows.fork(), copy.deepcopy(self._contents)
        return twin

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The keys and values of one row of one layer, each (Hkv, L, D), oldest first."""
        length = self.rows.check_read(layer, row, len(self._spec.layers))
        shape = self._spec.layers[layer]
        layers = [each for each in self.contents[row].layers if has_keys(each)] if length else []
        tensors = _tensors(layers[layer]) if layer < len(layers) else []
        if not tensors:
            empty = np.zeros((shape.num_kv_heads, 0, shape.key_head_dim), np.float32)
            return empty, empty.copy()
        keys, values = (tensor[0].numpy().copy() for tensor in tensors)
        return keys, values

    # What the model uses.

    def next_contents(self) -> list[DynamicCache]:
        """What a step may run on: other caches over the same tensors, so that a step that fails leaves no trace."""
        if self._history is not None:
            return self._history.begin()
        twins = [copy.copy(row) for row in self._contents]
        for twin in twins:
            twin.layers = [copy.copy(layer) for layer in twin.layers]
        return twins

    def take(self, contents: list[DynamicCache]) -> None:
        """Takes what a step has run on; ``rows.advance`` follows, which takes what has states."""
        if self._history is None:
            self._contents = contents

    def checkpoint(self, rows: ArrayLike | None = None, /) -> None:
        """Keeps the states of rows at their present lengths."""
        self.rows.checkpoint(rows)

    def checkpoints(self, row: int, /) -> tuple[int, ...]:
        """The lengths of a row that were kept."""
        return self.rows.checkpoints(row)

    def drop(self, row: int, length: int | None = None, /) -> None:
        """Forgets the checkpoint of a row at a length, or all of the row."""
        self.rows.drop(row, length)

    def _empty(self) -> DynamicCache:
        return DynamicCache(config=self._config)


def has_keys(layer: Any) -> bool:
    """Whether a layer of a cache is one of attention; some keep states too."""
    return hasattr(layer, "keys")


def _tensors(layer: Any) -> list[torch.Tensor]:
    """Keys and values of a layer that holds any."""
    if not has_keys(layer) or not layer.is_initialized:
        return []
    return [tensor for tensor in (layer.keys, layer.values) if tensor is not None]
