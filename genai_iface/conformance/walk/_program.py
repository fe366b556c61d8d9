# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Programs: operations with plain numbers, drawn from a seed. Any part of a program is a program.

What a number means is settled when it is run (a row is taken modulo the rows that there are, a count is cut to the
room), so operations can be left out, and numbers made smaller, without a thought for what came before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["STYLES", "Operation", "draw_climb", "draw_program", "smaller"]

STYLES = ("array", "list", "int32", "big_endian", "read_only", "strided", "reversed")
"""How a step's tokens are handed over."""

_MAX_ROWS = 12
_SPECIAL_SIZES = (6, 8, 10, 16)
_WEIGHTS = {
    "new": 2,
    "step": 20,
    "decode": 8,
    "all": 4,
    "overflow": 2,
    "bad_token": 2,
    "rewind": 8,
    "reorder": 6,
    "reset": 3,
    "fork": 6,
    "save": 1,
    "close": 1,
}
_REFUSED_OR_SAVED = ("save", "overflow", "bad_token")
_BORDERS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        kind: One of the weights' names.
        cache: Which of the open caches, modulo their number.
        numbers: Counts, lengths, rows: one for each row there may be.
        seed: Of the tokens.
        style: Of ``STYLES``.
    """

    kind: str
    cache: int
    numbers: tuple[int, ...]
    seed: int = 0
    style: str = "array"


def draw_program(seed: Sequence[int], length: int) -> list[Operation]:
    """A program that begins with a cache."""
    random = np.random.default_rng(seed)
    kinds = random.choice(list(_WEIGHTS), length - 1, p=np.array([*_WEIGHTS.values()]) / sum(_WEIGHTS.values()))
    program = []
    for kind in ["new", *kinds.tolist()]:
        # Rows that are idle are common, wide steps are rare.
        wide = int(random.choice([1, 3, 8, 24]))
        numbers = np.where(random.random(_MAX_ROWS + 1) < 0.25, 0, random.integers(0, wide + 1, _MAX_ROWS + 1))
        # What buffers, windows and blocks are made for.
        special = random.choice(_SPECIAL_SIZES, _MAX_ROWS + 1)
        numbers = np.where(random.random(_MAX_ROWS + 1) < 0.12, special, numbers)
        if kind in ("new", "reorder", "rewind"):
            numbers = random.integers(0, 48, _MAX_ROWS + 1)
        style = str(random.choice(STYLES))
        cache, salt = int(random.integers(0, 4)), int(random.integers(0, 2**16))
        program.append(Operation(kind, cache, tuple(numbers.tolist()), salt, style))
    return program


def draw_climb(seed: Sequence[int], number: int, *, rows: int, longest: int) -> list[Operation]:
    """A program whose rows go past one power of two after the other, while their neighbors wait or follow slowly.

    Args:
        seed: Of everything that is drawn.
        number: Of the program; three in a row end short of each power, on it and past it.
        rows: Of its caches.
        longest: Most tokens of a row.
    """
    random = np.random.default_rng([*seed, number])

    def numbers(*first: int) -> tuple[int, ...]:
        return (*first, *random.integers(0, longest, _MAX_ROWS + 1 - len(first)).tolist())

    def operation(kind: str, cache: int, chosen: Sequence[int]) -> Operation:
        style = str(random.choice(STYLES))
        return Operation(kind, cache, tuple(chosen), int(random.integers(0, 2**16)), style)

    program = [operation("new", 0, numbers(rows - 1, longest - 1, 1))]
    ones = [1] * (_MAX_ROWS + 1)
    for at, border in enumerate(size for size in _BORDERS if size < longest):
        ahead = (at + number) % rows
        few = random.integers(1, 4, _MAX_ROWS + 1)
        far, near = np.zeros_like(few), few.copy()
        far[ahead], near[ahead] = border + (at + number) % 3 - 1, 0
        program += [
            operation("reach", 0, far.tolist()),
            operation("step", 0, near.tolist()),
            operation("fork", 0, ones),
            *(operation("decode", cache, ones) for cache in (0, 1)),
            # The fork goes back, the origin moves its rows.
            operation("rewind", 1, numbers()),
            operation("reorder", 0, numbers(rows - 1)),
            *(operation("decode", cache, ones) for cache in (1, 0)),
            operation("close", int(random.integers(0, 4) > 0), ones),
            operation(str(random.choice(_REFUSED_OR_SAVED)), 0, numbers()),
            *(operation("decode", cache, ones) for cache in (0, 1)),
            operation("close", 1, ones),
        ]
    return program


def smaller(program: list[Operation]) -> Iterator[list[Operation]]:
    """Programs with fewer operations, then with simpler ones; the boldest cuts first."""
    size = len(program) // 2
    while size:
        for begin in range(0, len(program), size):
            yield [*program[:begin], *program[begin + size :]]
        size //= 2
    for index, operation in enumerate(program):
        for simpler in _simpler(operation):
            yield [*program[:index], simpler, *program[index + 1 :]]


def _simpler(operation: Operation) -> Iterator[Operation]:
    if operation.style != "array":
        yield dataclasses.replace(operation, style="array")
    if operation.cache:
        yield dataclasses.replace(operation, cache=0)
    numbers = operation.numbers
    for less in (
        tuple(0 for _ in numbers),
        tuple(min(1, number) for number in numbers),
        tuple(n // 2 for n in numbers),
    ):
        if less != numbers:
            yield dataclasses.replace(operation, numbers=less)
    for index, number in enumerate(numbers):
        for less_number in {0, number // 2, number - 1} - {number}:
            if number:
                yield dataclasses.replace(operation, numbers=(*numbers[:index], less_number, *numbers[index + 1 :]))
