# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What became of a graph on a runtime, and whose fault it is if it is not what torch computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from genai_iface._tolerance import LOGIT_TOLERANCES

__all__ = ["Cell", "Fault", "StepSeen", "Verdict", "Who", "cell_of", "fault_of"]

Verdict: TypeAlias = Literal["equal", "inexact", "near tie", "differs", "refused", "crashed", "not applicable"]
"""What became of a cell.

"equal" has torch's tokens and logits within rounding; "inexact" has torch's tokens, and logits further away than that;
"near tie" has another token where rounding decides; "differs" has one where it does not; "refused" was said in words by
whoever did not do it, "crashed" was not; "not applicable" was not tried, since the runtime takes other forms.
"""

Who: TypeAlias = Literal["nobody", "producer", "runtime", "open"]
"""Whose fault a row is. "open": the cells do not say."""

_TOLERANCE = LOGIT_TOLERANCES["float32"]
# Differences that are as large to this part come from one cause.
_SAME = 5e-2


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One step of one row on a runtime, beside torch.

    Attributes:
        row: Row of the batch.
        step: 0 for the token after the prompt.
        difference: Largest difference of a logit, as a part of the largest logit; None if the runtime shows none.
        token: What the runtime chose.
        expected: What torch chose.
        margin: By how much torch prefers it to the next, as a part of the largest logit.
    """

    row: int
    step: int
    difference: float | None
    token: int
    expected: int
    margin: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding explains another token."""
        if self.difference is None:
            return self.margin <= 2 * _TOLERANCE
        return self.difference <= _TOLERANCE and self.margin <= 2 * self.difference


@dataclass(frozen=True, slots=True)
class Cell:
    """A producer's graph on a runtime.

    Attributes:
        runtime: Its name.
        engine: The library that computes; several runtimes may share one.
        verdict: What became of it.
        reason: For what was refused, crashed or not tried: by whom and why, in a line.
        compared: Tokens that were compared, of all rows.
        difference: Largest difference of a logit up to the first token that differs; None without logits.
        row: Of the first token that differs, or of the first inexact logits; None if there are none.
        step: Likewise.
        token: Likewise, what came.
        expected: Likewise, what torch has.
        margin: Likewise, by how much torch prefers it.
    """

    runtime: str
    engine: str
    verdict: Verdict
    reason: str = ""
    compared: int = 0
    difference: float | None = None
    row: int | None = None
    step: int | None = None
    token: int | None = None
    expected: int | None = None
    margin: float | None = None

    @property
    def ran(self) -> bool:
        """Whether there is something that was computed."""
        return self.is_right or self.is_wrong

    @property
    def is_right(self) -> bool:
        """Whether it computes what torch does."""
        return self.verdict in ("equal", "near tie")

    @property
    def is_wrong(self) -> bool:
        """Whether it computes something else."""
        return self.verdict in ("differs", "inexact")

    @property
    def is_broken(self) -> bool:
        """Whether it was tried in vain."""
        return self.verdict in ("refused", "crashed")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fault:
    """Whose fault a row is.

    Attributes:
        who: The producer, a runtime, nobody; or the cells do not say.
        reason: In a line.
    """

    who: Who
    reason: str


def cell_of(runtime: str, engine: str, steps: Iterable[StepSeen]) -> Cell:
    """The cell of what a runtime computed.

    Args:
        runtime: Its name.
        engine: What computes in it.
        steps: In any order; of each row none after the last that was run.
    """
    seen = sorted(steps, key=lambda each: (each.step, each.row))
    other = [each for each in seen if each.token != each.expected]
    first = next((each for each in other if not each.is_near_tie), None)
    verdict: Verdict = "equal"
    if first is not None:
        verdict = "differs"
    else:
        # NaN is within nothing.
        first = next((each for each in seen if each.difference is not None and not each.difference <= _TOLERANCE), None)
        verdict = "equal" if first is None else "inexact"
        if first is None and other:
            verdict, first = "near tie", other[0]
    last = first.step if verdict == "differs" and first is not None else math.inf
    known = [each.difference for each in seen if each.difference is not None and each.step <= last]
    reason = "" if all(map(math.isfinite, known)) else "logits that are no numbers"
    difference = max(known) if known and not reason else None
    cell = Cell(runtime, engine, verdict, reason, compared=len(seen), difference=difference)
    if first is None:
        return cell
    where = {"row": first.row, "step": first.step, "token": first.token, "expected": first.expected}
    return Cell(**{**cell.as_dict(), **where, "margin": first.margin})


def fault_of(cells: Sequence[Cell]) -> Fault:
    """Judges the cells of one producer.

    Different on every engine, and in one way: the producer's fault. Different on one: that one's. A near tie: nobody's.
    Runtimes that share an engine are one witness.
    """
    right = [cell for cell in cells if cell.is_right]
    wrong = [cell for cell in cells if cell.is_wrong]
    broken = [cell for cell in cells if cell.is_broken]
    if wrong:
        return _of_wrong(wrong, right)
    if broken:
        return _of_broken(broken, right)
    if not right:
        return Fault("open", "no runtime takes this form")
    ties = [cell.runtime for cell in right if cell.verdict == "near tie"]
    return Fault("nobody", f"rounding decides between two tokens on {_listed(ties)}" if ties else "")


def _of_wrong(wrong: Sequence[Cell], right: Sequence[Cell]) -> Fault:
    names, engines = _listed([cell.runtime for cell in wrong]), {cell.engine for cell in wrong}
    if right:
        if len(engines) > 1:
            return Fault("open", f"wrong on {names}, right on {_listed([cell.runtime for cell in right])}")
        return Fault("runtime", f"wrong on {names} only")
    if len(engines) == 1:
        return Fault("open", f"wrong on {names}, and no other engine runs it")
    if all(_is_same(cell, wrong[0]) for cell in wrong[1:]):
        return Fault("producer", f"the same wrong result on {names}")
    return Fault("open", f"wrong on {names}, in different ways")


def _of_broken(broken: Sequence[Cell], right: Sequence[Cell]) -> Fault:
    said = "; ".join(f"{cell.runtime}: {cell.reason}" for cell in broken)
    if right:
        return Fault("runtime", f"does not run on {_listed([cell.runtime for cell in broken])}")
    if len({cell.engine for cell in broken}) > 1:
        return Fault("producer", f"runs on no runtime: {said}")
    return Fault("open", f"does not run on the only engine that takes its form: {said}")


def _is_same(one: Cell, other: Cell) -> bool:
    """Whether two cells are wrong in one way, as far as they show it."""
    if one.verdict != other.verdict or (one.row, one.step, one.token) != (other.row, other.step, other.token):
        return False
    if one.difference is None or other.difference is None:
        return one.reason == other.reason or not (one.reason or other.reason)
    return math.isclose(one.difference, other.difference, rel_tol=_SAME)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
