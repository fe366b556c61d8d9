# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of steps, run against buffers of tokens: what every row holds and sees afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai_iface.backend_kit import (
    GraphRun,
    RunRules,
    Step,
    asked_columns,
    check_step,
    empty_logits,
    plan_concat,
    plan_in_place,
    store_logits,
)

PADDING = -7


def step_of(counts: list[int], width: int, logits: Any, lengths: list[int]) -> Step:
    """A step in which the real token of row b at position p is 1000 * b + p."""
    starts = np.array(lengths)
    ids = 1000 * np.arange(len(counts))[:, None] + starts[:, None] + np.arange(width)
    return check_step(ids, np.array(counts), logits, lengths=starts, capacity=10**6, vocab_size=10**6)


class Buffers:
    """A linear buffer per row and, with a window, a ring per row; runs write into them as TensorScatter does."""

    def __init__(self, lengths: list[int], room: int, window: int | None) -> None:
        self.lengths, self.room, self.window = lengths, room, window
        self.linear = np.full((len(lengths), room), PADDING)
        self.ring = np.full((len(lengths), window or 1), PADDING)
        for row, length in enumerate(lengths):
            for position in range(length):
                self.linear[row, position] = 1000 * row + position
                self.ring[row, position % (window or 1)] = 1000 * row + position

    def run(self, step: Step, run: GraphRun[Any]) -> np.ndarray:
        """Writes the tokens; gives as "logits" of each column the last token that it sees in the linear buffer.

        The ring has to show each column its own window: the tokens before it, padding among them never.
        """
        rows = np.arange(len(self.lengths))[run.rows]
        ids = step.input_ids[run.rows, run.columns]
        seen = np.zeros((len(rows), run.width, 1), np.float32)
        for index, row in enumerate(rows):
            start = int(run.starts[index])
            assert start + run.width <= self.room, "a run leaves the buffer"
            for column in range(run.width):
                is_real = column < run.counts[index]
                token = ids[index, column] if is_real else PADDING
                self.linear[row, start + column] = token
                if self.window:
                    self.ring[row, (start + column) % self.window] = token
            for column in range(int(run.counts[index])):
                position = start + column
                assert self.linear[row, : position + 1].tolist() == [1000 * row + p for p in range(position + 1)]
                if self.window:
                    expected = {1000 * row + p for p in range(max(0, position + 1 - self.window), position + 1)}
                    # A block is written before anything of it is read: nothing that a query sees may be overwritten.
                    assert expected <= set(self.ring[row].tolist()), "a query does not see its window"
                seen[index, column] = 1000 * row + position
        return seen


# Short rows and single tokens are what decides: whether a ring has wrapped, and which rows run together.
lengths_of_rows = st.one_of(st.integers(0, 4), st.integers(0, 20))
counts_of_rows = st.one_of(st.integers(0, 1), st.integers(0, 12))
rows_of_a_step = st.lists(st.tuples(lengths_of_rows, counts_of_rows), min_size=1, max_size=6)
rules_of_a_run = st.builds(
    RunRules,
    run_cost=st.integers(0, 40),
    window=st.one_of(st.none(), st.integers(1, 10)),
    max_positions=st.one_of(st.none(), st.just(32)),
    only_empty_rows=st.booleans(),
    only_last_logits=st.booleans(),
    always_all_rows=st.booleans(),
)


@settings(max_examples=300)
@given(rows_of_a_step, rules_of_a_run, st.integers(0, 12), st.booleans(), st.sampled_from(["last", "all", "none"]))
def test_runs_give_every_row_its_tokens(
    shape: list[tuple[int, int]], rules: RunRules, slack: int, is_ragged: bool, logits: str
) -> None:
    lengths = [length for length, _ in shape]
    width = max(count for _, count in [*shape, (0, 1)])
    counts = [count for _, count in shape] if is_ragged else [width] * len(shape)
    step = step_of(counts, width, logits, lengths)
    ends = [length + count for length, count in zip(lengths, counts, strict=True)]
    buffers = Buffers(lengths, max(ends) + slack, rules.window)
    asked: list[int] = []

    def make_room(needed: int) -> int:
        asked.append(needed)
        return buffers.room

    runs = plan_in_place(step, np.array(lengths), rules, make_room=make_room)
    result = empty_logits(step, 1)
    for run in runs:
        check_rules(run, step, rules)
        values = buffers.run(step, run)
        if rules.only_last_logits:
            values = values[:, -1:]
        store_logits(result, values, step, run)
    assert len(asked) <= 1
    assert sum(int(run.counts.sum()) for run in runs) == sum(counts)
    for row, (end, count) in enumerate(zip(ends, counts, strict=True)):
        assert buffers.linear[row, :end].tolist() == [1000 * row + position for position in range(end)]
        if rules.window:
            kept = {1000 * row + position for position in range(max(0, end - rules.window), end)}
            assert kept <= set(buffers.ring[row].tolist())
        if count and logits == "last":
            assert result[row, 0, 0] == 1000 * row + end - 1
        if logits == "all":
            assert result[row, :count, 0].tolist() == [1000 * row + end - count + column for column in range(count)]


def check_rules(run: GraphRun, step: Step, rules: RunRules) -> None:
    is_padded = bool((run.counts != run.width).any())
    several = run.width > 1 and len(run.counts) > 1
    assert run.width >= 1
    assert len(run.counts) == len(run.starts) == len(step.counts[run.rows])
    assert not (rules.window and is_padded)
    assert not (rules.only_last_logits and (is_padded or (run.width > 1 and step.logits == "all")))
    assert not (rules.only_empty_rows and several and run.starts.any())
    if rules.max_positions is not None and is_padded:
        assert int(run.starts.max()) + run.width <= rules.max_positions


@given(rows_of_a_step, st.booleans(), st.sampled_from(["last", "all", "none"]))
def test_concat_runs_have_one_length_and_no_padding(
    shape: list[tuple[int, int]], only_last_logits: bool, logits: str
) -> None:
    lengths, counts = ([pair[index] for pair in shape] for index in (0, 1))
    step = step_of(counts, max(1, *counts, 1), logits, lengths)
    done = np.array(lengths)
    result = empty_logits(step, 1)
    for run in plan_concat(step, np.array(lengths), only_last_logits=only_last_logits):
        assert len(set(run.starts.tolist())) == 1
        assert (run.counts == run.width).all()
        assert (done[run.rows] == run.starts).all()
        done[run.rows] += run.width
        values = step.input_ids[run.rows, run.columns][:, :, None].astype(np.float32)
        store_logits(result, values[:, -1:] if only_last_logits else values, step, run)
    assert done.tolist() == [length + count for length, count in zip(lengths, counts, strict=True)]
    for row, count in enumerate(counts):
        if count and logits == "last":
            assert result[row, 0, 0] == step.input_ids[row, count - 1]
        if logits == "all":
            assert result[row, :count, 0].tolist() == step.input_ids[row, :count].tolist()


def test_neighbours_are_viewed_and_others_gathered() -> None:
    step = step_of([2, 2, 1, 2], 2, "last", [5, 5, 5, 5])
    first, second = plan_concat(step, np.array([5, 5, 5, 5]))
    assert isinstance(first.rows, np.ndarray)
    assert (first.rows.tolist(), second.rows) == ([0, 1, 3], slice(2, 3))


@pytest.mark.parametrize(
    ("logits", "columns"), [("last", [[2], [0], [0]]), ("all", [[0, 1, 2]] * 3), ("none", [[]] * 3)]
)
def test_asked_columns(logits: str, columns: list[list[int]]) -> None:
    step = step_of([3, 1, 0], 3, logits, [0, 4, 2])
    run = GraphRun(slice(0, 3), slice(0, 3), np.array([0, 4, 2]), np.array([3, 1, 0]))
    asked = asked_columns(step, run)
    assert asked.tolist() == columns
    result = empty_logits(step, 1)
    every = step.input_ids[:, :, None].astype(np.float32)
    store_logits(result, np.take_along_axis(every, asked[:, :, None], axis=1), step, run)
    expected = empty_logits(step, 1)
    store_logits(expected, every, step, run)
    assert np.array_equal(result, expected)
    assert result.shape == (3, len(columns[0]), 1)


def test_a_step_without_tokens_needs_no_run() -> None:
    step = step_of([0, 0], 3, "last", [4, 5])
    assert plan_in_place(step, np.array([4, 5]), RunRules(), make_room=lambda _: 8) == []
    assert list(plan_concat(step, np.array([4, 5]))) == []
