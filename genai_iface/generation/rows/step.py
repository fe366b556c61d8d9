# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One ragged step of the model over the rows of a cache, for whoever decides which row runs how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.protocols import CacheT, Model

__all__ = ["OBSERVED_CHUNK_SIZE", "Observer", "run_step"]

Observer: TypeAlias = Callable[[int, int, NDArray[np.float32]], None]
"""Told a row or sequence, the position of the first of n of its tokens, and the logits (n, V) that follow them."""

OBSERVED_CHUNK_SIZE = 64
"""Most tokens per row in a step with all logits: 64 positions of 150k tokens are 38 MB per row."""


def run_step(
    model: Model[CacheT],
    cache: CacheT,
    sequences: Sequence[TokenSequence],
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    takes_all: bool = False,
    observe: Observer | None = None,
) -> None:
    """Runs the next tokens of each row's sequence, and sets the ``logits`` of sequences that have run to their end.

    Args:
        model: Runs the step.
        cache: Its rows hold prefixes of the sequences.
        sequences: One for each row.
        lengths: (B,) tokens that each row holds.
        counts: (B,) tokens of each row that run; 0 leaves a row alone. Not all are 0.
        takes_all: Whether the logits of every position are asked for, not only of each row's last.
        observe: Told the logits of what has run: of every position if ``takes_all``, else of rows with one token.
    """
    width = max(counts)
    ids = np.zeros((len(counts), width), dtype=np.int64)
    complete = []
    for row, count in enumerate(counts):
        if count:
            end = lengths[row] + count
            ids[row, :count] = sequences[row].tokens[lengths[row] : end]
            if end == len(sequences[row]):
                complete.append(row)
    logits = model.forward(
        ids,
        cache,
        counts=None if min(counts) == width else np.array(counts, dtype=np.int64),
        logits="all" if takes_all else "last" if complete or observe is not None else "none",
    )
    if observe is not None:
        for row, count in enumerate(counts):
            if count == 1 or (count and takes_all):
                observe(row, lengths[row], logits[row, :count])
    for row in complete:
        # A copy of one position of many, or it would keep all of them.
        sequences[row].logits = logits[row, counts[row] - 1].copy() if takes_all else logits[row, 0]
