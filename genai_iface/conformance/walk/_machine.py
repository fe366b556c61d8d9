# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a program on a model and beside it on lists of tokens; writes down in Python what it does."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import padded
from genai_iface.conformance._failure import ConformanceFailure, equal, expect, raises
from genai_iface.conformance.walk._program import Operation
from genai_iface.conformance.walk._rows import Drawn, Row, as_argument, tokens_of
from genai_iface.errors import CacheOverflowError, CacheRewindError, InvalidInputError
from genai_iface.protocols import KVCache, Model

if TYPE_CHECKING:
    from genai_iface.conformance._context import FreshSubject
    from genai_iface.conformance.adapter import Adapter

__all__ = ["Machine", "open_fresh"]

_MAX_CACHES = 4
_MOST_REFUSED = 64


def open_fresh(
    adapter: Adapter, name: str, /, *, seed: int, dtype: str = "float32"
) -> tuple[Model[Any], Callable[[list[int]], NDArray[np.float64]]]:
    """The model of a walk, and what its logits (V,) must be after any tokens.

    Args:
        adapter: As ``load_adapter`` gives it.
        name: The golden model that has its shape.
        seed: The seed of the run.
        dtype: Of its weights.
    """
    from genai_iface.conformance._context import Context  # noqa: PLC0415 - a context imports walks

    context = Context(adapter, dtype=dtype, seed=seed)
    # Its folder is needed as long as the model.
    atexit.register(context.close)
    subject = context.fresh(name)
    return subject.model, subject.made.logits_after


@dataclass
class _Held:
    """A cache, and what must be in it."""

    name: str
    cache: KVCache
    rows: list[Row]
    capacity: int


@dataclass
class Machine:
    """Caches of one model with their sequences.

    Attributes:
        subject: The model, with its references.
        max_rows: Most rows of a cache.
        longest: Most tokens of a row.
        lines: The program so far, as Python.
    """

    subject: FreshSubject
    max_rows: int = 12
    longest: int = 48
    lines: list[str] = field(default_factory=list)
    held: list[_Held] = field(default_factory=list)
    _made: int = 0
    _drawn: int = 0

    def run(self, program: list[Operation]) -> None:
        """Runs a program and closes what it opened.

        Raises:
            ConformanceFailure: The model and the oracle differ; the last lines are the ones that show it.
        """
        try:
            for operation in program:
                self._do(operation)
        finally:
            for held in self.held:
                held.cache.close()
            self.held.clear()

    def _do(self, operation: Operation) -> None:
        if operation.kind == "new" or not self.held:
            self._new(operation)
            return
        held = self.held[operation.cache % len(self.held)]
        kind = operation.kind
        can = self.subject.model.capabilities
        if kind in ("step", "decode", "reach", "all"):
            self._step(held, operation, "all" if kind == "all" and Capability.LOGITS_ALL in can else "last")
        elif kind in ("overflow", "bad_token"):
            self._refused(held, operation)
        elif kind == "fork" and Capability.FORK in can and len(self.held) < _MAX_CACHES:
            self._keep(held.cache.fork(), f"{held.name}.fork()", list(held.rows), held.capacity)  # type: ignore[attr-defined]
        elif kind == "save" and Capability.SAVE in can and len(self.held) < _MAX_CACHES:
            self._save(held)
        elif kind in ("rewind", "reorder", "reset"):
            getattr(self, f"_{kind}")(held, operation)
        elif kind == "close" and len(self.held) > 1:
            self._say(f"{held.name}.close()", held.cache.close)
            self.held.remove(held)
        self._check_lengths()

    def _say(self, line: str, action: Callable[[], Any]) -> Any:
        self.lines.append(line)
        return action()

    def _keep(self, cache: KVCache, line: str, rows: list[Row], capacity: int) -> None:
        name = f"c{self._made}"
        self._made += 1
        self.lines.append(f"{name} = {line}")
        self.held.append(_Held(name, cache, rows, capacity))

    def _new(self, operation: Operation) -> None:
        if len(self.held) >= _MAX_CACHES:
            return
        spec = self.subject.model.spec
        # A ring's positions are no limit: it goes round.
        fixed = None if spec.cache.is_circular else spec.cache.fixed_capacity
        most = min(spec.context_length or self.longest, fixed or self.longest, self.longest)
        rows = 1 + operation.numbers[0] % self.max_rows
        capacity = 1 + operation.numbers[1] % most
        # Small caches are full at once; most of the time there should be something to do.
        if operation.numbers[2] % 4:
            # Rings want several laps.
            capacity = most if spec.cache.is_circular else max(capacity, most // 2)
        cache = self.subject.model.create_cache(batch_size=rows, capacity=capacity)
        self._keep(
            cache, f"model.create_cache(batch_size={rows}, capacity={capacity})", [Row() for _ in range(rows)], capacity
        )

    def _counts(self, held: _Held, operation: Operation) -> list[int]:
        counts = []
        for row, tokens in enumerate(held.rows):
            count = operation.numbers[row % len(operation.numbers)]
            if operation.kind == "decode":
                count = min(1, count)
            elif operation.kind == "reach":
                # A row that is there already waits.
                count = max(0, count - len(tokens))
            counts.append(min(count, held.capacity - len(tokens)))
        return counts

    def _draw(self, held: _Held, operation: Operation) -> Drawn:
        size = self.subject.model.spec.vocab_size
        drawn = tokens_of(operation, self._counts(held, operation), size, f"t{self._drawn}")
        if drawn.name:
            self._drawn += 1
            self.lines.append(f"{drawn.name} = {drawn.text}")
        return drawn

    def _step(self, held: _Held, operation: Operation, mode: str) -> None:
        drawn = self._draw(held, operation)
        counts = drawn.counts
        ids, text = as_argument(drawn, operation.style)
        before = np.array(ids)
        line = f'got = model.forward({text}, {held.name}, counts={counts}, logits="{mode}")'
        got = self._say(line, lambda: self.subject.model.forward(ids, held.cache, counts=counts, logits=mode))  # type: ignore[arg-type]
        if not np.array_equal(before, np.array(ids)):
            raise ConformanceFailure("a step changed the array of its tokens")
        for row, count in enumerate(counts):
            known = len(held.rows[row])
            held.rows[row] = held.rows[row].extended(drawn, row)
            columns = range(count) if mode == "all" else range(1 if count else 0)
            for column in columns:
                length = known + column + 1 if mode == "all" else known + count
                self._compare(got, row, column, held.rows[row].cut(length))

    def _compare(self, got: NDArray[np.float32], row: int, column: int, sequence: Row) -> None:
        try:
            what = f"logits of row {row} after {len(sequence)} tokens"
            self.subject.made.check_logits(got[row, column], sequence.tokens, what)
        except (ConformanceFailure, IndexError) as failure:
            tolerance = getattr(failure, "numbers", {}).get("tolerance", self.subject.golden.tolerance)
            pair = f"got[{row}, {column}], logits_after({sequence.text})"
            self.lines.append(f"np.testing.assert_allclose({pair}, rtol=0, atol={tolerance:.3g})")
            raise

    def _refused(self, held: _Held, operation: Operation) -> None:
        """A step that must be refused and change nothing."""
        drawn = self._draw(held, operation)
        row = operation.seed % len(held.rows)
        if operation.kind == "bad_token":
            if len(held.rows[row]) == held.capacity:
                return
            wrong: list[int] = [self.subject.model.spec.vocab_size]
            kind: type[Exception] = InvalidInputError
        else:
            room = held.capacity - len(held.rows[row])
            # Rows of some thousand tokens are not written out for a refusal.
            if room > _MOST_REFUSED:
                return
            wrong, kind = [1] * (room + 1), CacheOverflowError
        rows = [drawn.ids[index, :count].tolist() for index, count in enumerate(drawn.counts)]
        rows[row] = wrong
        step = padded(rows)
        drawn = Drawn.given(step["ids"], step["counts"].tolist())
        ids, text = as_argument(drawn, operation.style)
        line = f"model.forward({text}, {held.name}, counts={drawn.counts})  # must raise {kind.__name__}"
        action = lambda: self.subject.model.forward(ids, held.cache, counts=drawn.counts)  # noqa: E731
        self._say(line, lambda: raises(kind, action, "a step that must be refused"))

    def _rewind(self, held: _Held, operation: Operation) -> None:
        lengths = [
            len(tokens) - number % (len(tokens) + 1)
            for tokens, number in zip(held.rows, operation.numbers * 2, strict=False)
        ]
        cache = held.cache
        if not cache.can_rewind_to(lengths):
            expect(self.subject.model.spec.cache.is_circular, f"can_rewind_to({lengths}) is false on a linear cache")
            line = f"{held.name}.rewind_to({lengths})  # must raise CacheRewindError, as can_rewind_to() says"
            self._say(line, lambda: raises(CacheRewindError, lambda: cache.rewind_to(lengths), "a rewind"))
            return
        self._say(f"{held.name}.rewind_to({lengths})", lambda: cache.rewind_to(lengths))
        held.rows = [tokens.cut(length) for tokens, length in zip(held.rows, lengths, strict=True)]

    def _reorder(self, held: _Held, operation: Operation) -> None:
        rows = 1 + operation.numbers[0] % self.max_rows
        indices = [number % len(held.rows) for number in operation.numbers[1 : rows + 1]]
        self._say(f"{held.name}.reorder({indices})", lambda: held.cache.reorder(indices))
        held.rows = [held.rows[index] for index in indices]

    def _reset(self, held: _Held, operation: Operation) -> None:
        rows = sorted({row for row, number in enumerate(operation.numbers[: len(held.rows)]) if number % 2})
        self._say(f"{held.name}.reset({rows})", lambda: held.cache.reset(np.array(rows, np.int64)))
        for row in rows:
            held.rows[row] = Row()

    def _save(self, held: _Held) -> None:
        model: Any = self.subject.model
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache.safetensors"
            self._say(f'model.save_cache({held.name}, "cache.safetensors")', lambda: model.save_cache(held.cache, path))
            cache = model.load_cache(path, capacity=held.capacity)
        line = f'model.load_cache("cache.safetensors", capacity={held.capacity})'
        self._keep(cache, line, list(held.rows), held.capacity)

    def _check_lengths(self) -> None:
        for held in self.held:
            lengths = [len(row) for row in held.rows]
            try:
                equal(held.cache.lengths, lengths, f"lengths of {held.name}")
                equal((held.cache.batch_size, held.cache.capacity), (len(lengths), held.capacity), "batch and capacity")
            except ConformanceFailure:
                self.lines.append(f"assert {held.name}.lengths.tolist() == {lengths}")
                raise
