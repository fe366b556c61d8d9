# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 0: bad arguments give the interface's errors, with a remedy, and change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import equal, expect, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import InvalidInputError

__all__: list[str] = []


def _refused(context: Context, what: str, ids: Any, **arguments: Any) -> None:
    """Fails unless a step on a cache with one row of two tokens is refused and changes nothing."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :2], cache)
    error = raises(InvalidInputError, lambda: subject.model.forward(ids, cache, **arguments), what)
    expect(getattr(error, "remedy", ""), f"the error for {what} says nothing about what to do", message=str(error))
    equal(cache.lengths, [2], f"lengths after {what} was refused")
    got = subject.model.forward(subject.golden.tokens[:1, 2:3], cache)
    subject.near(got[0, 0], 0, 3, f"logits after {what} was refused")


@check("L0.errors.ids_rank", spec=["Model.forward.7"])
def ids_rank(context: Context) -> None:
    """input_ids of rank 1 are refused."""
    _refused(context, "input_ids of rank 1", np.array([1]))


@check("L0.errors.ids_rows", spec=["Model.forward.7"])
def ids_rows(context: Context) -> None:
    """input_ids with more rows than the cache are refused."""
    _refused(context, "input_ids with too many rows", np.array([[1], [2]]))


@check("L0.errors.ids_empty", spec=["Model.forward.7"])
def ids_empty(context: Context) -> None:
    """input_ids without columns are refused."""
    _refused(context, "input_ids of shape (1, 0)", np.zeros((1, 0), np.int64))


@check("L0.errors.ids_type", spec=["Model.forward.7"])
def ids_type(context: Context) -> None:
    """input_ids that are not integers are refused."""
    _refused(context, "input_ids of floats", np.array([[1.5]]))


@check("L0.errors.token_too_large", core="A row beyond the table is somebody else's memory.", spec=["Model.forward.7"])
def token_too_large(context: Context) -> None:
    """A real token id beyond the vocabulary is refused."""
    _refused(context, "a token id beyond the vocabulary", [[context.subject().model.spec.vocab_size]])


@check("L0.errors.token_negative", spec=["Model.forward.7"])
def token_negative(context: Context) -> None:
    """A negative real token id is refused."""
    _refused(context, "a negative token id", [[-1]])


@check("L0.errors.counts_shape", spec=["Model.forward.7"])
def counts_shape(context: Context) -> None:
    """Counts of another number of rows are refused."""
    _refused(context, "counts for two rows", [[1, 2]], counts=[1, 1])


@check("L0.errors.counts_too_large", spec=["Model.forward.7"])
def counts_too_large(context: Context) -> None:
    """A count beyond the step's width is refused."""
    _refused(context, "a count of 3 in a step of 2", [[1, 2]], counts=[3])


@check("L0.errors.counts_negative", spec=["Model.forward.7"])
def counts_negative(context: Context) -> None:
    """A negative count is refused."""
    _refused(context, "a negative count", [[1, 2]], counts=[-1])


@check("L0.errors.logits_mode", spec=["Model.forward.7"])
def logits_mode(context: Context) -> None:
    """An unknown value of logits is refused."""
    _refused(context, 'logits="first"', [[1]], logits="first")


@check("L0.errors.batch_size", spec=["Errors.1"])
def batch_size(context: Context) -> None:
    """A cache of no rows is refused."""
    model = context.subject().model
    raises(InvalidInputError, lambda: model.create_cache(batch_size=0), "batch_size=0")


@check("L0.errors.capacity", spec=["Errors.1"])
def capacity(context: Context) -> None:
    """A capacity of 0, or beyond the context length, is refused."""
    model = context.subject().model
    raises(InvalidInputError, lambda: model.create_cache(capacity=0), "capacity=0")
    length = model.spec.context_length
    if length is not None:
        raises(InvalidInputError, lambda: model.create_cache(capacity=length + 1), "a capacity beyond the context")


@check("L0.errors.foreign_cache", spec=["Model.forward.7"])
def foreign_cache(context: Context) -> None:
    """A cache of another model is refused."""
    cache = context.cache(context.subject("group3"), capacity=4)
    model = context.subject().model
    raises(InvalidInputError, lambda: model.forward([[1]], cache), "a cache of another model")


@check("L0.errors.closed_cache", spec=["KVCache.close.1"])
def closed_cache(context: Context) -> None:
    """A closed cache is refused."""
    subject = context.subject()
    cache = context.cache(subject, capacity=4)
    cache.close()
    raises(InvalidInputError, lambda: subject.model.forward([[1]], cache), "a closed cache")


@check("L0.errors.closed_model", spec=["Model.close.1"])
def closed_model(context: Context) -> None:
    """A closed model refuses a step; closing twice does nothing."""
    model = context.load(context.golden())
    cache = context.keep(model.create_cache(capacity=4))
    model.close()
    model.close()
    raises(InvalidInputError, lambda: model.forward([[1]], cache), "a step on a closed model")


@check("L0.errors.reorder", requires=[Capability.REORDER], spec=["KVCache.reorder.3", "Errors.1"])
def reorder(context: Context) -> None:
    """Row indices that are empty or out of range are refused, and nothing changes."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :2], cache)
    for indices in ([], [1], [-1], [[0]]):
        raises(InvalidInputError, lambda wrong=indices: cache.reorder(wrong), f"reorder({indices})")  # type: ignore[misc]
    equal((cache.batch_size, cache.lengths.tolist()), (1, [2]), "rows after reorders that were refused")


@check("L0.errors.reset", spec=["KVCache.reset.3", "Errors.1"])
def reset(context: Context) -> None:
    """Resetting a row that does not exist is refused, and nothing changes."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :2], cache)
    for rows in ([1], [-1]):
        raises(InvalidInputError, lambda wrong=rows: cache.reset(wrong), f"reset({rows})")  # type: ignore[misc]
    equal(cache.lengths, [2], "lengths after resets that were refused")
