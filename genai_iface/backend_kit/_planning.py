# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From one step of the interface to runs of a graph.

A step is ragged; a run is a rectangle of tokens. What does not fit into one rectangle, because padding would do
harm or cost more than a run of its own, is shared out among several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from genai_iface.backend_kit.arguments import Step

__all__ = ["GraphRun", "RunRules", "plan_concat", "plan_in_place"]

_Int64 = NDArray[np.int64]

RowsT_co = TypeVar("RowsT_co", bound="slice | _Int64", default=slice, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class GraphRun(Generic[RowsT_co]):
    """One run of the graph: some rows, some columns of a step.

    Attributes:
        rows: Which rows: a slice where they are neighbours, so that buffers are viewed and not copied, else
            int64 (rows,).
        columns: Which columns of input_ids.
        starts: int64 (rows,), the position of each row's first token in this run.
        counts: int64 (rows,), real tokens of each row in this run; 0 for a row that idles or has a run of its own.
    """

    rows: RowsT_co
    columns: slice
    starts: _Int64
    counts: _Int64

    @property
    def width(self) -> int:
        """Tokens of each row in this run, padding included."""
        return int(self.columns.stop) - int(self.columns.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRules:
    """What one run of a graph with buffers takes, and what it costs.

    Attributes:
        run_cost: What a run costs by itself, in tokens of a prompt.
        window: Positions of the smallest circular layer, None without one. Padding there would overwrite the oldest
            tokens, and a block that wraps around has no causal order.
        max_positions: Where the model's positions end, if padding must not stand beyond; None if it may.
        only_empty_rows: A run of several rows with several tokens each needs rows that are all empty.
        only_last_logits: The graph gives the logits of the last column only.
        one_token: The graph takes one token of each row in a run.
        always_all_rows: Every run is for all rows, idle ones included, as a captured graph needs it.
    """

    run_cost: int = 16
    window: int | None = None
    max_positions: int | None = None
    only_empty_rows: bool = False
    only_last_logits: bool = False
    one_token: bool = False
    always_all_rows: bool = False


def plan_in_place(
    step: Step, lengths: _Int64, rules: RunRules, /, *, make_room: Callable[[int], int]
) -> list[GraphRun]:
    """Plans a step on buffers that runs write into: as few runs as padding allows, no more padding than a run is worth.

    Args:
        step: The checked step.
        lengths: int64 (B,), the rows' lengths before it.
        rules: What a run takes.
        make_room: Gives the buffers at least so many positions if that is possible, and says how many they have.
            Called once, for all runs: growing between them would lose what the first have written.

    Returns:
        The runs in order; none if no row has a token.
    """
    groups = _groups(step, rules)
    if not groups:
        return []
    fitting = [_fits_one_run(step, lengths, group, rules) for group in groups]
    ends = [
        int(lengths[group.begin : group.stop].max()) + group.width
        if fits
        else int((lengths + step.counts)[group.begin : group.stop].max())
        for group, fits in zip(groups, fitting, strict=True)
    ]
    room = make_room(max(ends))
    runs: list[GraphRun] = []
    for group, fits, end in zip(groups, fitting, ends, strict=True):
        rows = slice(group.begin, group.stop)
        counts = step.counts[rows]
        # Rows with more tokens than the group is wide run in a later one.
        counts = np.where(counts <= group.width, counts, 0)
        if fits and end <= room:
            runs.append(GraphRun(rows, slice(0, group.width), lengths[rows], counts))
        else:
            runs.extend(_row_runs(step, lengths, counts, group.begin, rules))
    return runs


def plan_concat(
    step: Step, lengths: _Int64, /, *, only_last_logits: bool = False, one_token: bool = False
) -> Iterator[GraphRun[slice | _Int64]]:
    """Plans a step on past tensors that grow: these have one length for all rows of a run, and nothing is padded.

    Args:
        step: The checked step.
        lengths: int64 (B,), the rows' lengths before it.
        only_last_logits: The graph gives the logits of the last column only.
        one_token: The graph takes one token of each row in a run.

    Yields:
        Runs of rows with equal lengths and equal counts.
    """
    together: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(lengths.tolist(), step.counts.tolist(), strict=True)):
        if key[1]:
            together.setdefault(key, []).append(row)
    one_by_one = one_token or (only_last_logits and step.logits == "all")
    for (length, count), rows in together.items():
        are_neighbours = rows[-1] - rows[0] + 1 == len(rows)
        index = slice(rows[0], rows[-1] + 1) if are_neighbours else np.array(rows)
        for columns in _columns(count, 0 if one_by_one else count):
            width = columns.stop - columns.start
            starts = np.full(len(rows), length + columns.start)
            yield GraphRun(index, columns, starts, np.full(len(rows), width))


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Neighbouring rows of a step that run together, padded to one width.

    Attributes:
        begin: The first row.
        stop: The row after the last.
        width: Tokens of each row, padding included. Rows with more real tokens than that are idle in this
            group: they run in a later one.
    """

    begin: int
    stop: int
    width: int


def group_rows(counts: _Int64, /, *, run_cost: int) -> list[RowGroup]:
    """Shares the rows of a ragged step out among runs, so that little is spent on padding and idle rows.

    A step of a server has one prompt with many tokens beside answers with one each; padded to one width it would
    cost as if all were prompts. Rows with one token come first and together: what a run writes behind the tokens
    of an idle row is overwritten when that row's own turn comes. Idle rows at either end are left out.

    Args:
        counts: int64 (B,), real tokens of each row.
        run_cost: What a run costs by itself, in tokens.

    Returns:
        Groups that hold every row with a token, to be run in this order; empty if there is none.
    """
    sizes: list[int] = counts.tolist()
    active = [row for row, size in enumerate(sizes) if size]
    if not active:
        return []
    whole = RowGroup(active[0], active[-1] + 1, max(sizes))
    if whole.width == 1:
        return [whole]
    single = [row for row in active if sizes[row] == 1]
    groups = [RowGroup(single[0], single[-1] + 1, 1)] if single else []
    last: RowGroup | None = None
    for row in active:
        if sizes[row] == 1:
            # What stands between two groups must not run twice.
            last = None
            continue
        own = RowGroup(row, row + 1, sizes[row])
        if last is not None:
            joined = RowGroup(last.begin, own.stop, max(last.width, own.width))
            if _cost(joined, run_cost) <= _cost(last, run_cost) + _cost(own, run_cost):
                groups[-1] = last = joined
                continue
        groups.append(own)
        last = own
    return groups if sum(_cost(group, run_cost) for group in groups) < _cost(whole, run_cost) else [whole]


def _cost(group: RowGroup, run_cost: int) -> int:
    return (group.stop - group.begin) * group.width + run_cost


def _groups(step: Step, rules: RunRules) -> list[RowGroup]:
    """The rows that run together."""
    batch_size, width = step.input_ids.shape
    if not step.is_ragged:
        return [RowGroup(0, batch_size, width)]
    if rules.always_all_rows and step.counts.any():
        return [RowGroup(0, batch_size, int(step.counts.max()))]
    return group_rows(step.counts, run_cost=rules.run_cost)


def _fits_one_run(step: Step, lengths: _Int64, group: RowGroup, rules: RunRules) -> bool:
    counts, width = step.counts[group.begin : group.stop], group.width
    lengths = lengths[group.begin : group.stop]
    end = int(lengths.max()) + width
    is_padded = step.is_ragged and bool((counts != width).any())
    if is_padded and (rules.only_last_logits or (rules.max_positions is not None and end > rules.max_positions)):
        return False
    if width > 1 and (rules.one_token or (rules.only_last_logits and step.logits == "all")):
        return False
    if width > 1 and rules.only_empty_rows and len(lengths) > 1 and lengths.any():
        return False
    return rules.window is None or not (is_padded or (width > 1 and end > rules.window))


def _row_runs(step: Step, lengths: _Int64, counts: _Int64, offset: int, rules: RunRules) -> Iterator[GraphRun]:
    """Neighbours with one token together, every other row alone; from where a circular layer wraps on, token by token.

    Args:
        step: The step as the caller asked for it, checked.
        lengths: int64 (B,), of all rows.
        counts: int64 (rows,), of the rows from ``offset`` on.
        offset: The first of these rows.
        rules: What a run takes.
    """
    one_by_one = rules.one_token or (rules.only_last_logits and step.logits == "all")
    for begin, stop in _joined_rows(counts.tolist()):
        rows = slice(offset + begin, offset + stop)
        count = int(counts[begin])
        whole = count if rules.window is None else min(count, max(0, rules.window - int(lengths[rows][0])))
        for columns in _columns(count, 0 if one_by_one else whole):
            width = columns.stop - columns.start
            yield GraphRun(rows, columns, lengths[rows] + columns.start, np.full(stop - begin, width))


def _joined_rows(counts: list[int]) -> Iterator[tuple[int, int]]:
    """The rows with tokens: neighbours with one token together, every other row alone."""
    begin = 0
    while begin < len(counts):
        stop = begin + 1
        while counts[begin] == 1 and stop < len(counts) and counts[stop] == 1:
            stop += 1
        if counts[begin]:
            yield begin, stop
        begin = stop


def _columns(count: int, whole: int) -> Iterator[slice]:
    """The first ``whole`` columns in one piece, the others one by one."""
    if whole:
        yield slice(0, whole)
    for column in range(whole, count):
        yield slice(column, column + 1)
