# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a ragged step run together: each exactly once, and never at a higher cost than all at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genai_iface.backend_kit._planning import RowGroup, group_rows


def grouped(*counts: int, run_cost: int = 16) -> list[RowGroup]:
    return group_rows(np.array(counts), run_cost=run_cost)


def test_a_prompt_beside_answers_runs_apart_and_after_them() -> None:
    assert grouped(1, 1, 200, 1, 1) == [RowGroup(0, 5, 1), RowGroup(2, 3, 200)]


def test_rows_of_nearly_one_length_run_together() -> None:
    assert grouped(100, 98, 0, 0, 99) == [RowGroup(0, 2, 100), RowGroup(4, 5, 99)]
    assert grouped(100, 98, 99) == [RowGroup(0, 3, 100)]


def test_idle_rows_at_the_ends_are_left_out() -> None:
    assert grouped(0, 0, 1, 0, 1, 0) == [RowGroup(2, 5, 1)]
    assert grouped(0, 0) == []


def test_short_steps_are_not_taken_apart() -> None:
    assert grouped(1, 3, 1) == [RowGroup(0, 3, 3)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=10), st.integers(0, 40))
def test_every_token_runs_once_and_at_no_higher_cost(counts: list[int], run_cost: int) -> None:
    groups = grouped(*counts, run_cost=run_cost)
    written = np.zeros(len(counts), np.int64)
    for group in groups:
        for row in range(group.begin, group.stop):
            if counts[row] <= group.width:
                # A row that ran already must not be in a later group, where it would count again.
                assert not written[row] or not counts[row]
                written[row] = counts[row]
            else:
                assert not written[row]
    assert written.tolist() == counts
    costs = [(group.stop - group.begin) * group.width + run_cost for group in groups]
    active = [row for row, count in enumerate(counts) if count]
    if active:
        assert sum(costs) <= (active[-1] + 1 - active[0]) * max(counts) + run_cost
