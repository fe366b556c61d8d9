# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the model asks of a cache style: its caches, and how a step runs on them."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import RestorableCache, RowLengths, Step

__all__ = ["CacheT", "Runner"]

CacheT = TypeVar("CacheT", bound=RestorableCache)


class Runner(Protocol[CacheT]):
    """Makes the caches of one style and runs steps on them."""

    @property
    def grows(self) -> bool:
        """Whether the memory of a cache follows its rows' lengths."""
        ...

    def create_cache(self, rows: RowLengths, /) -> CacheT:
        """An empty cache for these rows."""
        ...

    def make_room(self, cache: CacheT, needed: int, /) -> int:
        """Gives a cache at least so many positions per row if that is possible; how many it has now."""
        ...

    def decode(self, input_ids: object, cache: CacheT, /) -> NDArray[np.float32] | None:
        """Runs one token for every row the short way; None, with nothing done, if the step has to be checked first."""
        ...

    def run(self, step: Step, cache: CacheT, /) -> NDArray[np.float32]:
        """Runs a checked step and books it.

        Returns:
            The logits as ``Model.forward`` gives them.

        Raises:
            BackendError: ONNX Runtime failed or there is no memory; the lengths are as before.
        """
        ...
