# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How far a build is: which stage of how many, and about how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

__all__ = ["STAGE_SHARES", "Stage", "Stages"]

Stage: TypeAlias = Literal["load", "decode", "export", "compare", "integers", "quantize"]

STAGE_SHARES: dict[Stage, float] = {
    "load": 0.02,
    "decode": 0.15,
    "export": 0.55,
    "compare": 0.28,
    "integers": 0.25,
    "quantize": 0.30,
}
"""How long stages take beside each other, from builds of real models; an estimate needs no more."""

# Before that much of the work is done, an estimate says nothing.
_LEAST_DONE = 0.1
_MINUTE = 60


class Stages:
    """Says what is being done, and about how long the rest takes, from how long it has taken so far.

    Args:
        tell: Called with a line of text.
        plan: The stages to come. Another try at a stage makes the plan longer.
        clock: Gives seconds.
    """

    def __init__(
        self, tell: Callable[[str], None], plan: Sequence[Stage], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        self._begun = clock()
        self._todo = list(plan)
        self._done: list[Stage] = []
        self._text = ""

    def begin(self, stage: Stage, text: str) -> None:
        """Ends the stage before, if there is one."""
        if stage in self._todo:
            # What is left out was not needed, or a method that failed has no result to compare.
            del self._todo[: self._todo.index(stage) + 1]
        elif stage == "export" and "compare" not in self._todo:
            self._todo.insert(0, "compare")
        self._done.append(stage)
        self._text = text
        self.part(0, 1)

    def part(self, done: int, total: int) -> None:
        """Says how much of the stage is done."""
        line = f"{len(self._done)} of {len(self._done) + len(self._todo)}: {self._text}"
        if done:
            line += f", {done} of {total}"
        self._tell(line + self._rest(done / total))

    def _rest(self, part: float) -> str:
        """About how long the rest takes."""
        *ended, current = (STAGE_SHARES[stage] for stage in self._done)
        done = sum(ended) + part * current
        left = (1 - part) * current + sum(STAGE_SHARES[stage] for stage in self._todo)
        if done < _LEAST_DONE:
            return ""
        seconds = (self._clock() - self._begun) / done * left
        return f" (about {f'{seconds / _MINUTE:.0f} min' if seconds > 2 * _MINUTE else f'{seconds:.0f} s'} left)"
