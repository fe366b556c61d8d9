# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What checks of models that keep states share: which golden models there are, and steps along golden rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai_iface.conformance._context import Context, Subject, padded
from genai_iface.conformance._golden import manifest
from genai_iface.protocols import KVCache

__all__ = ["LINEAR", "MODELS", "checked_step", "kernel_of", "near_next", "ragged_step", "state_subject"]

MODELS = ("conv", "delta", "gated", "alone", "ring", "uncounted")
"""The golden models that keep states, without the "states-" before them."""

LINEAR = ("conv", "delta", "gated", "alone", "uncounted")
"""Those without a circular layer."""


def state_subject(context: Context, name: str, dtype: str | None = None) -> Subject:
    """A golden model that keeps states.

    Raises:
        NotApplicable: As ``Context.subject``.
    """
    return context.subject(f"states-{name}", dtype)


def kernel_of(name: str) -> int:
    """K, the columns of the model's convolution; 4 for a model without one."""
    facts = manifest()["states"][f"states-{name}"]["states"]
    return next((fact["shape"][-1] + 1 for fact in facts if fact["kind"] == "conv"), 4)


def near_next(
    subject: Subject, cache: KVCache, lengths: Sequence[int], what: str, *, rows: Sequence[int] | None = None
) -> None:
    """Runs each golden row's next token and compares the logits after it.

    Args:
        subject: A golden model.
        cache: Its rows hold beginnings of golden rows.
        lengths: Of these beginnings.
        what: What has happened before.
        rows: The golden row of each; row i for None.
    """
    rows = list(range(len(lengths))) if rows is None else rows
    ids = np.array([[subject.golden.tokens[row, length]] for row, length in zip(rows, lengths, strict=True)])
    got = subject.model.forward(ids, cache)
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        subject.near(got[at, 0], row, length + 1, f"logits of row {at} {what}")


def ragged_step(subject: Subject, cache: KVCache, begins: Sequence[int], counts: Sequence[int]) -> None:
    """Runs so many tokens of each golden row, from these places on."""
    step = _step(subject, begins, counts)
    subject.model.forward(step["ids"], cache, counts=step["counts"])


def checked_step(
    subject: Subject, cache: KVCache, begins: Sequence[int], counts: Sequence[int], what: str
) -> Sequence[int]:
    """As ``ragged_step``, and compares the logits after every token.

    Returns:
        Where the rows end now.
    """
    step = _step(subject, begins, counts)
    got = subject.model.forward(step["ids"], cache, counts=step["counts"], logits="all")
    for row, (begin, count) in enumerate(zip(begins, counts, strict=True)):
        for at in range(count):
            subject.near(got[row, at], row, begin + at + 1, f"logits at position {begin + at} of row {row} {what}")
    return [begin + count for begin, count in zip(begins, counts, strict=True)]


def _step(subject: Subject, begins: Sequence[int], counts: Sequence[int]) -> dict[str, np.ndarray]:
    pairs = enumerate(zip(begins, counts, strict=True))
    return dict(padded([subject.golden.tokens[row, begin : begin + count] for row, (begin, count) in pairs]))
