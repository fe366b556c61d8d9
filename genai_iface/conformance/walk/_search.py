# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Looks for a program that fails, and for the shortest one that still does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from genai_iface.conformance._failure import ConformanceFailure
from genai_iface.conformance.adapter import Adapter, BackendAdapter
from genai_iface.conformance.walk._machine import Machine
from genai_iface.conformance.walk._program import Operation, draw_climb, draw_program, smaller

if TYPE_CHECKING:
    from genai_iface.conformance._context import Context

__all__ = ["climb", "walk"]

_SECONDS_TO_SHRINK = 20.0


def walk(context: Context, name: str, *, programs: int, length: int, max_rows: int = 12) -> None:
    """Runs programs on a fresh model.

    Args:
        context: The run.
        name: The golden model whose shape it has.
        programs: How many.
        length: Operations of each.
        max_rows: Most rows of a cache.

    Raises:
        ConformanceFailure: One fails; the message holds the shortest one that was found, as Python.
        NotApplicable: There is no such model in the adapter's form.
    """
    seed = [context.seed, *name.encode()]
    drawn = (draw_program([seed[0], number, *seed[1:]], length) for number in range(programs))
    _run(context, name, drawn, max_rows)


def climb(context: Context, name: str, *, programs: int, max_rows: int, longest: int) -> None:
    """Runs programs over long rows on a fresh model.

    Args:
        context: The run.
        name: The golden model whose shape it has.
        programs: How many.
        max_rows: Rows of each cache.
        longest: Most tokens of a row.

    Raises:
        ConformanceFailure: As ``walk``.
        NotApplicable: As ``walk``.
    """
    rows = min(max_rows, context.info.limits.get("max_batch_size", max_rows))
    seed = [context.seed, *name.encode()]
    drawn = (draw_climb(seed, number, rows=rows, longest=longest) for number in range(programs))
    _run(context, name, drawn, max_rows, longest)


def _run(context: Context, name: str, programs: Iterable[list[Operation]], max_rows: int, longest: int = 48) -> None:
    subject = context.fresh(name)
    limit = min(max_rows, context.info.limits.get("max_batch_size", max_rows))

    def attempt(program: list[Operation]) -> tuple[str, list[str]] | None:
        machine = Machine(subject, limit, longest)
        try:
            machine.run(program)
        except ConformanceFailure as failure:
            return str(failure), machine.lines
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises where nothing should is the finding
            return f"{type(error).__name__}: {error}", machine.lines
        return None

    for number, program in enumerate(programs):
        found = attempt(program)
        if found is not None:
            message, lines = _shortest(program, found, attempt)
            raise ConformanceFailure(
                f"a random walk fails: {message}",
                program=_as_python(context, name, lines),
                seed=context.seed,
                walk=number,
            )


def _shortest(
    program: list[Operation],
    found: tuple[str, list[str]],
    attempt: Callable[[list[Operation]], tuple[str, list[str]] | None],
) -> tuple[str, list[str]]:
    end = time.monotonic() + _SECONDS_TO_SHRINK
    shrinking = True
    while shrinking and time.monotonic() < end:
        shrinking = False
        for candidate in smaller(program):
            if time.monotonic() > end:
                break
            again = attempt(candidate)
            if again is not None:
                program, found, shrinking = candidate, again, True
                break
    return found


def _as_python(context: Context, name: str, lines: list[str]) -> str:
    needed = "draw_tokens, open_fresh" if any("draw_tokens(" in line for line in lines) else "open_fresh"
    head = [
        "import numpy as np",
        "from genai_iface.conformance import load_adapter",
        f"from genai_iface.conformance.walk import {needed}",
        "",
        f'model, logits_after = open_fresh({_as_expression(context.adapter)}, "{name}", seed={context.seed}, '
        f'dtype="{context.dtype}")',
    ]
    return "\n".join([*head, *lines])


def _as_expression(adapter: Adapter) -> str:
    """Python that makes the adapter again, as far as that can be known."""
    if isinstance(adapter, BackendAdapter):
        return f'load_adapter("{adapter.name}")'
    made = getattr(adapter, "expression", None)
    return made if isinstance(made, str) else f'load_adapter("{type(adapter).__module__}:{type(adapter).__qualname__}")'
