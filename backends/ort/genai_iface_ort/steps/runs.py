# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which runs of the graph make up one step of the interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import Step

__all__ = ["Run", "joined_rows", "store_logits"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the graph: some rows, some columns of the step.

    Attributes:
        begin: First row.
        stop: Row after the last.
        first: First column of input_ids.
        last: Column after the last.
        starts: int64 (rows,), the position of each row's first token in this run.
        counts: int64 (rows,), real tokens of each row in this run.
    """

    begin: int
    stop: int
    first: int
    last: int
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def width(self) -> int:
        """Columns."""
        return self.last - self.first


def joined_rows(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows that take part: neighbours with one token together, every other row alone."""
    begin = 0
    while begin < len(counts):
        stop = begin + 1
        if counts[begin] == 1:
            while stop < len(counts) and counts[stop] == 1:
                stop += 1
        if counts[begin]:
            yield begin, stop
        begin = stop


def store_logits(
    result: NDArray[np.float32], values: NDArray[Any], rows: NDArray[np.int64] | slice, run: Run, step: Step
) -> None:
    """Puts the logits of a run where the caller of ``forward`` expects them.

    Args:
        result: float32 (B, S or 1, V).
        values: (rows, run.width, V), or (rows, 1, V) with each row's last real token.
        rows: Rows of the step that the run covers.
        run: The run.
        step: The step.
    """
    if step.logits == "all":
        result[rows, run.first : run.last] = values
    elif step.logits == "last":
        last = step.counts[rows] - 1 - run.first
        inside = np.flatnonzero((last >= 0) & (last < run.width))
        targets = np.arange(len(result))[rows][inside]
        result[targets, 0] = values[inside, last[inside] if values.shape[1] > 1 else 0]
