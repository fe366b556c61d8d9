# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of tokens with the Python that says them: as they are while they are few, drawn again where they are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._context import PAD, padded
from genai_iface.conformance.walk._program import Operation

__all__ = ["Drawn", "Row", "as_argument", "draw_tokens", "tokens_of"]

_MOST_WRITTEN_OUT = 64


def draw_tokens(seed: int, counts: Sequence[int], vocab_size: int) -> NDArray[np.int64]:
    """The tokens of a step (B, S): so many of each row, padded to the longest with -1."""
    random = np.random.default_rng(seed)
    return padded([random.integers(0, vocab_size, count) for count in counts])["ids"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of one step.

    Attributes:
        ids: (B, S), padded.
        counts: (B,).
        text: Python that gives ``ids``.
        name: Of the variable that holds them; empty where they are written out.
    """

    ids: NDArray[np.int64]
    counts: list[int]
    text: str
    name: str = ""

    @classmethod
    def of(cls, seed: int, counts: list[int], vocab_size: int, name: str) -> Drawn:
        """Draws them; ``name`` is taken if they are many."""
        ids = draw_tokens(seed, counts, vocab_size)
        if ids.size <= _MOST_WRITTEN_OUT * 12 and max(counts) <= _MOST_WRITTEN_OUT:
            return cls.given(ids, counts)
        return cls(ids, counts, f"draw_tokens({seed}, {counts}, {vocab_size})", name)

    @classmethod
    def given(cls, ids: NDArray[np.int64], counts: list[int]) -> Drawn:
        """Tokens that are written out."""
        return cls(ids, counts, f"np.array({ids.tolist()})")

    def widened(self) -> Drawn:
        """The same, a column wider than any row needs; written out ones only."""
        if self.name:
            return self
        wider = np.pad(self.ids, ((0, 0), (0, 1)), constant_values=PAD)
        return self.given(wider, self.counts)


class Row:
    """The tokens of a row and where they came from."""

    def __init__(self, parts: Sequence[tuple[list[int], str]] = ()) -> None:
        self._parts = list(parts)

    def __len__(self) -> int:
        return sum(len(tokens) for tokens, _ in self._parts)

    @property
    def tokens(self) -> list[int]:
        """All of them."""
        return [token for tokens, _ in self._parts for token in tokens]

    @property
    def text(self) -> str:
        """Python for them."""
        if not any(source for _, source in self._parts):
            return str(self.tokens)
        pieces = [
            f"*{source}[:{len(tokens)}]" if source else ", ".join(map(str, tokens)) for tokens, source in self._parts
        ]
        return f"[{', '.join(piece for piece in pieces if piece)}]"

    def extended(self, drawn: Drawn, row: int) -> Row:
        """With a row of a step behind it."""
        count = drawn.counts[row]
        if not count:
            return Row(self._parts)
        source = f"{drawn.name}[{row}]" if drawn.name else ""
        return Row([*self._parts, (drawn.ids[row, :count].tolist(), source)])

    def cut(self, length: int) -> Row:
        """The first tokens."""
        parts, left = [], length
        for tokens, source in self._parts:
            parts.append((tokens[:left], source))
            left = max(0, left - len(tokens))
        return Row([(tokens, source) for tokens, source in parts if tokens])


def as_argument(drawn: Drawn, style: str) -> tuple[Any, str]:
    """A step's tokens in a style of ``STYLES``, and Python for them."""
    array, text = drawn.ids, drawn.name or drawn.text
    ways: dict[str, tuple[Any, str]] = {
        "array": (array, text),
        "list": (array.tolist(), f"{text}.tolist()" if drawn.name else str(array.tolist())),
        "int32": (array.astype(np.int32), f"{text}.astype(np.int32)"),
        "big_endian": (array.astype(">i8"), f'{text}.astype(">i8")'),
        "read_only": (array.copy(), text),
        "strided": (_spread(array), f"np.repeat({text}, 2, axis=1)[:, ::2]"),
        "reversed": (array[::-1].copy()[::-1], f"{text}[::-1].copy()[::-1]"),
    }
    ids, said = ways[style]
    if style == "read_only":
        ids.setflags(write=False)
    return ids, said


def _spread(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """A view of every second column; what lies between is another token."""
    spread = np.full((len(array), 2 * array.shape[1]), 7, np.int64)
    spread[:, ::2] = array
    return spread[:, ::2]


def tokens_of(operation: Operation, counts: list[int], vocab_size: int, name: str) -> Drawn:
    """The tokens of an operation, at times wider than any row needs."""
    drawn = Drawn.of(operation.seed, counts, vocab_size, name)
    return drawn.widened() if operation.seed % 3 == 0 else drawn
