# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RowLengths against the tokens themselves: each row a list, each circular layer the tokens that it still has."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai_iface import CacheRewindError, InvalidInputError
from genai_iface.backend_kit import RowLengths, check_cache, stored_positions


class Model:
    """Makes caches."""


class Cache:
    """Has row lengths."""

    def __init__(self, model: object, *windows: int | None) -> None:
        self.rows = RowLengths(2, 20, owner=model, windows=windows)


MODEL = Model()


class PlainRows:
    """Per layer and row a ring, written token by token; None marks what no rewind brings back."""

    def __init__(self, batch_size: int, windows: list[int]) -> None:
        self.rings = [[[-1] * window for _ in range(batch_size)] for window in windows]
        self.lengths = [0] * batch_size

    def append(self, row: int, count: int) -> None:
        for position in range(self.lengths[row], self.lengths[row] + count):
            for layer in self.rings:
                layer[row][position % len(layer[row])] = position
        self.lengths[row] += count

    def can_be(self, row: int, length: int) -> bool:
        """Whether all layers still have the last tokens of a row of this length, where they belong."""
        return all(
            layer[row][position % len(layer[row])] == position
            for layer in self.rings
            for position in range(max(0, length - len(layer[row])), length)
        )


windows_of_layers = st.lists(st.integers(1, 9), max_size=3)
steps = st.lists(st.tuples(st.sampled_from(["append", "rewind", "reset"]), st.integers(0, 2), st.integers(0, 12)))


@given(windows_of_layers, steps)
def test_rewinds_are_refused_exactly_where_a_token_is_lost(windows: list[int], operations: Any) -> None:
    rows = RowLengths(3, 10_000, owner=MODEL, windows=[None, *windows])
    plain = PlainRows(3, windows)
    for kind, row, number in operations:
        lengths = rows.lengths
        if kind == "append":
            plain.append(row, number)
            rows.advance(np.eye(3, dtype=np.int64)[row] * number)
        elif kind == "reset":
            plain.lengths[row] = 0
            rows.reset([row])
        else:
            lengths[row] = min(number, lengths[row])
            possible = plain.can_be(row, int(lengths[row]))
            assert rows.can_rewind_to(lengths) == possible
            if possible:
                plain.lengths[row] = int(lengths[row])
                rows.rewind_to(lengths)
            else:
                with pytest.raises(CacheRewindError) as caught:
                    rows.rewind_to(lengths)
                assert (caught.value.row, caught.value.requested) == (row, lengths[row])
        assert rows.lengths.tolist() == plain.lengths


@given(st.integers(0, 30), st.one_of(st.none(), st.integers(1, 9)))
def test_stored_positions(length: int, window: int | None) -> None:
    ring: list[int | None] = [None] * (window or 30)
    for position in range(length):
        ring[position % len(ring)] = position
    kept = [ring[index] for index in stored_positions(length, window)]
    assert kept == list(range(max(0, length - (window or length)), length))


def test_lengths_are_snapshots() -> None:
    rows = RowLengths(2, 20, owner=MODEL)
    before = rows.lengths
    wanted = np.array([3, 1])
    rows.advance([4, 2])
    rows.rewind_to(wanted)
    wanted[:] = rows.lengths[:] = 9
    assert (before.tolist(), rows.lengths.tolist(), rows.longest) == ([0, 0], [3, 1], 3)


def test_reorder_and_fork_are_independent() -> None:
    rows = RowLengths(2, 20, owner=MODEL, windows=[4])
    rows.advance([4, 7])
    twin = rows.fork()
    twin.reorder([1, 0, 1])
    twin.reset([0])
    twin.close()
    assert (rows.lengths.tolist(), rows.batch_size, rows.is_open) == ([4, 7], 2, True)
    assert (twin.lengths.tolist(), twin.batch_size, twin.capacity, twin.is_open) == ([0, 4, 7], 3, 20, False)
    assert not rows.can_rewind_to([4, 6])
    assert rows.can_rewind_to([2, 7])


@pytest.mark.parametrize(
    "call",
    [
        lambda rows: rows.can_rewind_to(0),
        lambda rows: rows.rewind_to(0),
        lambda rows: rows.check_rewind(0),
        lambda rows: rows.reorder([0]),
        lambda rows: rows.check_reorder([0]),
        lambda rows: rows.reset(),
        lambda rows: rows.check_reset(None),
        lambda rows: rows.check_read(0, 0, 1),
        lambda rows: rows.fork(),
        lambda rows: rows.check_open(),
    ],
)
def test_closed_rows_refuse_all_but_their_properties(call: Any) -> None:
    rows = RowLengths(2, 20, owner=MODEL)
    rows.advance(3)
    call(rows.fork())
    rows.close()
    rows.close()
    with pytest.raises(InvalidInputError, match="closed"):
        call(rows)
    assert (rows.lengths.tolist(), rows.capacity, rows.batch_size) == ([3, 3], 20, 2)


def test_an_error_changes_nothing() -> None:
    rows = RowLengths(2, 20, owner=MODEL, windows=[4])
    rows.advance([6, 3])
    for call in (lambda: rows.rewind_to([5, 2]), lambda: rows.rewind_to([7, 3]), lambda: rows.rewind_to([1])):
        with pytest.raises((CacheRewindError, InvalidInputError)):
            call()
    for wrong in ([2], [], [-1]):
        with pytest.raises(InvalidInputError):
            rows.reorder(wrong)
    with pytest.raises(InvalidInputError):
        rows.reset([0, 2])
    assert rows.lengths.tolist() == [6, 3]


@pytest.mark.parametrize(("layer", "row"), [(1, 0), (-1, 0), (0, 2), (0, -1)])
def test_reading_what_is_not_there(layer: int, row: int) -> None:
    with pytest.raises(InvalidInputError, match="Count both from 0"):
        RowLengths(2, 20, owner=MODEL).check_read(layer, row, 1)


def test_a_cache_belongs_to_the_model_that_made_it() -> None:
    cache = Cache(MODEL)
    assert check_cache(cache, MODEL) is cache.rows
    for stranger in (Cache(Model()), object(), None):
        with pytest.raises(InvalidInputError, match="not made by this model"):
            check_cache(stranger, MODEL)
    cache.rows.close()
    with pytest.raises(InvalidInputError, match="closed"):
        check_cache(cache, MODEL)


def test_a_cache_keeps_no_model_alive() -> None:
    import weakref

    model = Model()
    cache, alive = Cache(model), weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    with pytest.raises(InvalidInputError, match="not made by this model"):
        check_cache(cache, None)
