# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The logits of a step: how many, which columns of a run they come from, and where they go."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit._planning import GraphRun
from genai_iface.backend_kit.arguments import Step

__all__ = ["asked_columns", "empty_logits", "store_logits"]


def empty_logits(step: Step, vocab_size: int, /) -> NDArray[np.float32]:
    """What ``Model.forward`` returns, with zeros: float32 (B, K, V), K is 1 for "last", S for "all", 0 for "none"."""
    batch_size, width = step.input_ids.shape
    num_logits = {"last": 1, "all": width, "none": 0}[step.logits]
    return np.zeros((batch_size, num_logits, vocab_size), np.float32)


def asked_columns(step: Step, run: GraphRun[Any], /) -> NDArray[np.int64]:
    """The columns of a run whose logits are wanted.

    Returns:
        int64 (rows, K), counted from the run's first column; K is 1 for "last", the width for "all", 0 for "none".
        A row that does not end in this run gets some column, which ``store_logits`` leaves out.
    """
    if step.logits == "all":
        return np.broadcast_to(np.arange(run.width), (len(run.counts), run.width))
    if step.logits == "last":
        return np.maximum(run.counts - 1, 0)[:, None]
    return np.zeros((len(run.counts), 0), np.int64)


def store_logits(result: NDArray[np.float32], values: NDArray[Any], step: Step, run: GraphRun[Any], /) -> None:
    """Puts the logits of a run where the caller of ``forward`` expects them.

    Args:
        result: As ``empty_logits`` gives it; written to.
        values: (rows, width, V), or those of ``asked_columns``, (rows, K, V).
        step: The step as the caller asked for it, checked.
        run: The rows and columns of the step that this run computed.
    """
    if step.logits == "all":
        result[run.rows, run.columns] = values
    elif step.logits == "last":
        ends_here = (run.counts > 0) & (run.columns.start + run.counts == step.counts[run.rows])
        inside = np.flatnonzero(ends_here)
        columns = run.counts[inside] - 1 if values.shape[1] > 1 else 0
        result[np.arange(len(result))[run.rows][inside], 0] = values[inside, columns]
