# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: rows are moved, copied and dropped."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance._failure import equal, expect, same_bits
from genai_iface.conformance.registry import check
from genai_iface.protocols import SupportsInspect

__all__: list[str] = []

_REORDER = (Capability.REORDER, Capability.BATCH)
_RAGGED = (*_REORDER, Capability.RAGGED)


@check("L2.reorder.permutes", core="Beams and slots move by it.", requires=_RAGGED, spec=["KVCache.reorder.1"])
def permutes(context: Context) -> None:
    """Row i becomes what row indices[i] was, its length included."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 16)
    lengths = [3, 6, 4]
    step = padded([tokens[row, :length] for row, length in enumerate(lengths)])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    order = [2, 0, 1]
    cache.reorder(order)
    equal(cache.lengths, [lengths[old] for old in order], "lengths after reorder([2, 0, 1])")
    got = subject.model.forward(np.array([[tokens[old, lengths[old]]] for old in order]), cache)
    for row, old in enumerate(order):
        subject.near(got[row, 0], old, lengths[old] + 1, f"logits of row {row}, which was row {old}")


@check("L2.reorder.duplicates", requires=_REORDER, spec=["KVCache.reorder.1"])
def duplicates(context: Context) -> None:
    """Copies of one row are independent of each other afterwards."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 16)
    subject.model.forward(tokens[:2, :5], cache, logits="none")
    cache.reorder([0, 0, 0])
    equal((cache.batch_size, cache.lengths.tolist()), (3, [5, 5, 5]), "(batch_size, lengths) after reorder([0, 0, 0])")
    # Rows 1 and 2 take other tokens; row 0 must not notice, whichever is written last.
    for length in (6, 7, 8):
        ids = np.array([[tokens[0, length - 1]], [7], [9]])
        got = subject.model.forward(ids, cache)
        subject.near(got[0, 0], 0, length, "logits of one copy while others take other tokens")


@check("L2.reorder.duplicates_last", requires=_REORDER, spec=["KVCache.reorder.1"])
def duplicates_last(context: Context) -> None:
    """The last copy of a row is as independent as the first."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 1, 16)
    subject.model.forward(tokens[:1, :5], cache, logits="none")
    cache.reorder([0, 0])
    for length in (6, 7, 8):
        got = subject.model.forward(np.array([[3], [tokens[0, length - 1]]]), cache)
        subject.near(got[1, 0], 0, length, "logits of the second copy while the first takes other tokens")


@check("L2.reorder.fewer_rows", requires=_REORDER, spec=["KVCache.reorder.1", "KVCache.batch_size.1"])
def fewer_rows(context: Context) -> None:
    """Rows can be dropped."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 3, 16)
    subject.model.forward(tokens[:, :5], cache, logits="none")
    cache.reorder([2])
    equal((cache.batch_size, len(cache.lengths)), (1, 1), "(batch_size, len(lengths)) after reorder([2])")
    got = subject.model.forward(tokens[2:3, 5:6], cache)
    subject.near(got[0, 0], 2, 6, "logits of the row that stayed")


@check("L2.reorder.more_rows", requires=_REORDER, spec=["KVCache.reorder.1", "KVCache.batch_size.1"])
def more_rows(context: Context) -> None:
    """There may be more rows than before."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 2, 16)
    subject.model.forward(tokens[:2, :5], cache, logits="none")
    order = [1, 0, 1, 0]
    cache.reorder(order)
    equal(cache.batch_size, 4, "batch_size after reorder([1, 0, 1, 0])")
    got = subject.model.forward(np.array([[tokens[old, 5]] for old in order]), cache)
    for row, old in enumerate(order):
        subject.near(got[row, 0], old, 6, f"logits of row {row}, a copy of row {old}")


@check("L2.reorder.bit_exact", requires=[*_REORDER, Capability.INSPECT], spec=["KVCache.reorder.2"])
def bit_exact(context: Context) -> None:
    """Keys and values are moved bit by bit."""
    subject = context.subject()
    cache = context.cache(subject, 3, 16)
    subject.model.forward(subject.golden.tokens[:, :6], cache, logits="none")
    expect(isinstance(cache, SupportsInspect), "inspect is declared, but the cache has no read()")
    layers = range(len(subject.model.spec.cache.layers))
    before = {(layer, row): cache.read(layer, row) for layer in layers for row in range(3)}  # type: ignore[attr-defined]
    order = [2, 2, 0, 1]
    cache.reorder(order)
    for layer in layers:
        for row, old in enumerate(order):
            after = cache.read(layer, row)  # type: ignore[attr-defined]
            for kind, got, expected in zip(("keys", "values"), after, before[layer, old], strict=True):
                same_bits(got, expected, f"{kind} of layer {layer}, row {row}, which was row {old}")


@check("L2.reorder.then_rewind", requires=[*_REORDER, Capability.REWIND], spec=["KVCache.rewind_to.1"])
def then_rewind(context: Context) -> None:
    """A copied row can be rewound without the others."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, 1, 16)
    subject.model.forward(tokens[:1, :6], cache, logits="none")
    cache.reorder([0, 0])
    cache.rewind_to([6, 3])
    equal(cache.lengths, [6, 3], "lengths after one copy was rewound")
    got = subject.model.forward(np.array([[tokens[0, 6]], [tokens[0, 3]]]), cache)
    subject.near(got[0, 0], 0, 7, "logits of the copy that was not rewound")
    subject.near(got[1, 0], 0, 4, "logits of the copy that was rewound")
