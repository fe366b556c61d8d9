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
from genai_iface.conformance._failure import ConformanceFailure, close, equal, expect, raises
from genai_iface.conformance.walk._program import Operation
from genai_iface.errors import CacheOverflowError, CacheRewindError, InvalidInputError
from genai_iface.protocols import KVCache, Model

if TYPE_CHECKING:
    from genai_iface.conformance._context import FreshSubject
    from genai_iface.conformance.adapter import Adapter

__all__ = ["Machine", "open_fresh"]

_PAD = -1
_MAX_CACHES = 4


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
    rows: list[list[int]]
    capacity: int


@dataclass
class Machine:
    """Caches of one model with their sequences.

    Attributes:
        subject: The model, with its references.
        max_rows: Most rows of a cache.
        lines: The program so far, as Python.
    """

    subject: FreshSubject
    max_rows: int = 12
    lines: list[str] = field(default_factory=list)
    held: list[_Held] = field(default_factory=list)
    _made: int = 0

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
        if kind in ("step", "decode", "all"):
            self._step(held, operation, "all" if kind == "all" and Capability.LOGITS_ALL in can else "last")
        elif kind in ("overflow", "bad_token"):
            self._refused(held, operation)
        elif kind == "fork" and Capability.FORK in can and len(self.held) < _MAX_CACHES:
            self._keep(held.cache.fork(), f"{held.name}.fork()", [list(row) for row in held.rows], held.capacity)  # type: ignore[attr-defined]
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

    def _keep(self, cache: KVCache, line: str, rows: list[list[int]], capacity: int) -> None:
        name = f"c{self._made}"
        self._made += 1
        self.lines.append(f"{name} = {line}")
        self.held.append(_Held(name, cache, rows, capacity))

    def _new(self, operation: Operation) -> None:
        if len(self.held) >= _MAX_CACHES:
            return
        spec = self.subject.model.spec
        most = min(spec.context_length or 48, spec.cache.fixed_capacity or 48, 48)
        rows = 1 + operation.numbers[0] % self.max_rows
        capacity = 1 + operation.numbers[1] % most
        # Small caches are full at once; most of the time there should be something to do.
        if operation.numbers[2] % 4:
            # Rings want several laps.
            capacity = most if spec.cache.is_circular else max(capacity, most // 2)
        cache = self.subject.model.create_cache(batch_size=rows, capacity=capacity)
        self._keep(
            cache, f"model.create_cache(batch_size={rows}, capacity={capacity})", [[] for _ in range(rows)], capacity
        )

    def _tokens(self, held: _Held, operation: Operation) -> list[list[int]]:
        random = np.random.default_rng(operation.seed)
        size = self.subject.model.spec.vocab_size
        tokens = []
        for row, held_tokens in enumerate(held.rows):
            count = operation.numbers[row % len(operation.numbers)]
            if operation.kind == "decode":
                count = min(1, count)
            tokens.append(random.integers(0, size, min(count, held.capacity - len(held_tokens))).tolist())
        return tokens

    def _step(self, held: _Held, operation: Operation, mode: str) -> None:
        tokens = self._tokens(held, operation)
        ids, counts, text = _as_arguments(tokens, operation)
        before = np.array(ids)
        line = f'got = model.forward({text}, {held.name}, counts={counts}, logits="{mode}")'
        got = self._say(line, lambda: self.subject.model.forward(ids, held.cache, counts=counts, logits=mode))  # type: ignore[arg-type]
        if not np.array_equal(before, np.array(ids)):
            raise ConformanceFailure("a step changed the array of its tokens")
        for row, new in enumerate(tokens):
            known = len(held.rows[row])
            held.rows[row].extend(new)
            columns = range(len(new)) if mode == "all" else range(1 if new else 0)
            for column in columns:
                length = known + column + 1 if mode == "all" else len(held.rows[row])
                self._compare(got, row, column, held.rows[row][:length])

    def _compare(self, got: NDArray[np.float32], row: int, column: int, sequence: list[int]) -> None:
        expected = self.subject.made.logits_after(sequence)
        golden = self.subject.golden
        # The tolerance is relative to the largest logit, which other sequences may exceed.
        tolerance = golden.tolerance * max(1.0, float(np.abs(expected).max() / np.abs(golden.logits).max()))
        try:
            close(got[row, column], expected, tolerance, f"logits of row {row} after {len(sequence)} tokens")
        except (ConformanceFailure, IndexError):
            pair = f"got[{row}, {column}], logits_after({sequence})"
            self.lines.append(f"np.testing.assert_allclose({pair}, rtol=0, atol={tolerance:.3g})")
            raise

    def _refused(self, held: _Held, operation: Operation) -> None:
        """A step that must be refused and change nothing."""
        tokens = self._tokens(held, operation)
        row = operation.seed % len(held.rows)
        if operation.kind == "bad_token":
            if len(held.rows[row]) == held.capacity:
                return
            tokens[row] = [self.subject.model.spec.vocab_size]
            kind: type[Exception] = InvalidInputError
        else:
            tokens[row] = [1] * (held.capacity - len(held.rows[row]) + 1)
            kind = CacheOverflowError
        ids, counts, text = _as_arguments(tokens, operation)
        line = f"model.forward({text}, {held.name}, counts={counts})  # must raise {kind.__name__}"
        action = lambda: self.subject.model.forward(ids, held.cache, counts=counts)  # noqa: E731
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
        held.rows = [tokens[:length] for tokens, length in zip(held.rows, lengths, strict=True)]

    def _reorder(self, held: _Held, operation: Operation) -> None:
        rows = 1 + operation.numbers[0] % self.max_rows
        indices = [number % len(held.rows) for number in operation.numbers[1 : rows + 1]]
        self._say(f"{held.name}.reorder({indices})", lambda: held.cache.reorder(indices))
        held.rows = [list(held.rows[index]) for index in indices]

    def _reset(self, held: _Held, operation: Operation) -> None:
        rows = sorted({row for row, number in enumerate(operation.numbers[: len(held.rows)]) if number % 2})
        self._say(f"{held.name}.reset({rows})", lambda: held.cache.reset(np.array(rows, np.int64)))
        for row in rows:
            held.rows[row] = []

    def _save(self, held: _Held) -> None:
        model: Any = self.subject.model
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache.safetensors"
            self._say(f'model.save_cache({held.name}, "cache.safetensors")', lambda: model.save_cache(held.cache, path))
            cache = model.load_cache(path, capacity=held.capacity)
        line = f'model.load_cache("cache.safetensors", capacity={held.capacity})'
        self._keep(cache, line, [list(row) for row in held.rows], held.capacity)

    def _check_lengths(self) -> None:
        for held in self.held:
            lengths = [len(row) for row in held.rows]
            try:
                equal(held.cache.lengths, lengths, f"lengths of {held.name}")
                equal((held.cache.batch_size, held.cache.capacity), (len(lengths), held.capacity), "batch and capacity")
            except ConformanceFailure:
                self.lines.append(f"assert {held.name}.lengths.tolist() == {lengths}")
                raise


def _as_arguments(tokens: list[list[int]], operation: Operation) -> tuple[Any, list[int], str]:
    """The step's tokens in the operation's style, their counts, and Python for them."""
    counts = [len(row) for row in tokens]
    # At times wider than any row needs.
    width = max(1, *counts) + (operation.seed % 3 == 0)
    plain = [row + [_PAD] * (width - len(row)) for row in tokens]
    array = np.array(plain, np.int64)
    spread = np.full((len(plain), 2 * width), 7, np.int64)
    spread[:, ::2] = array
    ways: dict[str, tuple[Any, str]] = {
        "array": (array, f"np.array({plain})"),
        "list": (plain, f"{plain}"),
        "int32": (array.astype(np.int32), f"np.array({plain}, np.int32)"),
        "big_endian": (array.astype(">i8"), f'np.array({plain}, ">i8")'),
        "read_only": (array, f"np.array({plain})"),
        "strided": (spread[:, ::2], f"np.repeat({plain}, 2, axis=1)[:, ::2]"),
        "reversed": (array[::-1].copy()[::-1], f"np.array({plain[::-1]})[::-1]"),
    }
    ids, text = ways[operation.style]
    if operation.style == "read_only":
        ids.setflags(write=False)
    return ids, counts, text
