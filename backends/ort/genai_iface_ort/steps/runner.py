# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the model asks of a cache style: its cache, and how a step runs on it."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import Step
from genai_iface.protocols import KVCache, SupportsInspect
from genai_iface_ort.buffers import BufferSpec

__all__ = ["CacheT", "Runner", "StyleCache"]


class StyleCache(KVCache, SupportsInspect, Protocol):
    """The cache of a style, with what the model needs beyond the interface."""

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The tensors; the very object of the runner that made the cache."""
        ...

    def check_open(self) -> None:
        """Raises InvalidInputError if the cache is closed."""
        ...

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per tensor, as ``read`` gives them."""
        ...


CacheT = TypeVar("CacheT", bound=StyleCache)


class Runner(Protocol[CacheT]):
    """Makes the caches of one style and runs steps on them."""

    @property
    def specs(self) -> tuple[BufferSpec, ...]:
        """The cache tensors; caches of this model hold this very object."""
        ...

    @property
    def grows(self) -> bool:
        """Whether the memory follows the rows' lengths."""
        ...

    def create_cache(self, batch_size: int, capacity: int) -> CacheT:
        """An empty cache."""
        ...

    def make_room(self, cache: CacheT, needed: int) -> bool:
        """Fits the memory to so many positions per row; whether there is room now."""
        ...

    def decode(self, input_ids: object, cache: CacheT) -> NDArray[np.float32] | None:
        """Runs one token for every row the short way; None, with nothing done, if the step has to be checked first."""
        ...

    def run(self, step: Step, cache: CacheT) -> NDArray[np.float32]:
        """Runs a checked step and books it.

        Returns:
            The logits as ``Model.forward`` gives them.

        Raises:
            BackendError: ONNX Runtime failed or there is no memory; the lengths are as before.
        """
        ...
