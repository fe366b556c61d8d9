# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The step of a decode loop: one token for every row of a cache.

Between two steps the runtime has streamed all weights through the processor's caches, so Python and
NumPy run cold: what counts is how little of them runs. This is the same step as the general one,
with everything prepared that does not change; whatever is unusual goes the general way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface_ort.cache import OrtCache
from genai_iface_ort.steps.bound_step import BoundStep

__all__ = ["DecodeStep"]


class DecodeStep:
    """Runs a bound step of width 1 on all rows.

    Args:
        bound: The step, after a run that was in place.
        vocab_size: V, the columns of the logits.
        ends: Tokens of the longest row after the step for which the buffers are neither too small nor too large.
    """

    def __init__(self, bound: BoundStep, vocab_size: int, ends: range) -> None:
        self._bound = bound
        self._vocab_size = vocab_size
        self._shape = bound.shape
        self._ends = ends
        ids, self._counts, self._by_length, self._total = bound.decode_inputs()
        self._ids = ids.reshape(-1)

    def run(self, input_ids: object, cache: OrtCache) -> NDArray[np.float32] | None:
        """Runs one token per row and books it.

        Args:
            input_ids: As the caller gave them.
            cache: The cache that the step is bound to.

        Returns:
            The logits, float32 (B, 1, V); None, with nothing done, if the general way has to be taken.

        Raises:
            BackendError: ONNX Runtime failed; the lengths are as before.
        """
        ids = np.asarray(input_ids)
        if ids.shape != self._shape or ids.dtype.kind != "i":
            return None
        tokens: list[int] = ids.ravel().tolist()
        rows = cache.rows
        lengths: list[int] = rows.lengths.tolist()
        end = max(lengths) + 1
        if end not in self._ends:
            return None
        if min(tokens) < 0 or max(tokens) >= self._vocab_size:
            return None
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self._ids[row] = token
            for array, offset in self._by_length:
                array[row] = length + offset
        # A step with idle rows may have gone the general way meanwhile.
        for counts in self._counts:
            counts.fill(1)
        if self._total is not None:
            self._total[...] = end
        states = self._bound.states
        if states is not None:
            states.states.begin(rows.lengths)
            states.send(proves=False)
        logits: NDArray[Any] = self._bound.run()
        rows.advance(1)
        return logits
