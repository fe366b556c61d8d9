# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What became of one architecture, and whose fault a difference is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = ["Outcome", "Run", "Verdict", "judged", "save"]

Verdict: TypeAlias = Literal["equal", "near tie", "network", "producer", "runtime", "undecided", "fails", "not tried"]
"""Whose fault a wrong token is.

"network" if torch itself gives it with a cache; "fails" if there is no export, "not tried" if torch has no tiny network
of it.
"""

# In float32, logits that differ by less than this part of the largest one differ by rounding.
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Run:
    """The export on one runtime, fed torch's tokens.

    Attributes:
        first_wrong: The first step whose likeliest token is another than torch's, None if there is none.
        difference: Largest difference of a logit up to there, as a part of the largest logit of its step; -1 if what
            came are no numbers.
        margin: At that step, by how much torch prefers its token, as a part of the largest logit; or -1.
        problem: Why it does not run; empty if it does.
    """

    first_wrong: int | None = None
    difference: float = 0.0
    margin: float = 0.0
    problem: str = ""

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding explains the other token."""
        return 0 <= self.difference <= _ROUNDING and self.margin <= 2 * self.difference


@dataclass(frozen=True, slots=True)
class Outcome:
    """One architecture.

    Attributes:
        name: Its name in the table.
        network: The class of the torch network.
        verdict: Equal, or whose fault it is.
        reason: In a line, what is behind a verdict other than "equal".
        tokens: Greedy tokens that were compared, in each row.
        runs: What came on each runtime.
        parts: "decode" for the graph that takes prompt and tokens, "prefill, decode" where the verdict is on those.
        takes_mask: Whether the graphs take an attention_mask, without which no padded batch can run.
        ours: What the same folder gives in a ragged batch of this SDK: empty if torch's tokens, else why not.
        seconds: Processor time that all of it took.
    """

    name: str
    network: str = ""
    verdict: Verdict = "not tried"
    reason: str = ""
    tokens: int = 0
    runs: dict[str, Run] = field(default_factory=dict)
    parts: str = ""
    takes_mask: bool = False
    ours: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Outcome:
        """What ``as_dict`` gave."""
        runs = {name: Run(**run) for name, run in values["runs"].items()}
        return cls(**{**values, "runs": runs})


def judged(runs: dict[str, Run], *, apart: float) -> tuple[Verdict, str]:
    """The verdict on two runtimes, and the reason for it.

    Args:
        runs: What each runtime gave.
        apart: Largest difference between the two runtimes' logits up to the first wrong token; infinity if unknown.
    """
    broken = {name: run.problem for name, run in runs.items() if run.problem}
    wrong = {name: run for name, run in runs.items() if not run.problem and run.first_wrong is not None}
    far = {name: run for name, run in wrong.items() if not run.is_near_tie}
    if len(broken) == len(runs):
        same = len(set(broken.values())) == 1
        said = next(iter(broken.values())) if same else "; ".join(f"{name}: {why}" for name, why in broken.items())
        return "producer", f"runs on no runtime: {said}"
    if far and not broken:
        if len(far) == 1:
            return "runtime", f"wrong on {next(iter(far))} only"
        if apart > _ROUNDING:
            return "undecided", "wrong on both runtimes, in different ways"
        return "producer", "the same wrong logits on both runtimes"
    if far:
        return "undecided", f"wrong on {next(iter(far))}; {_said(broken)}"
    if broken:
        return "runtime", _said(broken)
    if wrong:
        return "near tie", f"rounding decides between two tokens on {' and '.join(wrong)}"
    largest = max(run.difference for run in runs.values())
    return "equal", f"but logits differ by {largest:.0e}" if largest > _ROUNDING else ""


def _said(broken: dict[str, str]) -> str:
    return "; ".join(f"does not run on {name}: {why}" for name, why in broken.items())


def save(outcome: Outcome, file: Path) -> None:
    """Writes an outcome under another name, then renames it."""
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(outcome.as_dict(), indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)
