# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of the kit gives: an outcome per check, a verdict per level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from genai_iface.capabilities import LEVEL_PROFILES, Capability
from genai_iface.conformance.registry import LEVELS, Check

__all__ = ["ConformanceResult", "LevelVerdict", "Outcome", "Status", "Verdict", "judge"]

Status: TypeAlias = Literal["passed", "failed", "deviation", "not_applicable", "not_executed"]
"""not_applicable: the check has no subject here, and its level does not ask for one."""

Verdict: TypeAlias = Literal["conforms", "known_deviations", "does_not_reach", "no_verdict"]
"""Three words for three outcomes; "no_verdict" where something was not executed, which is no outcome."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check.

    Attributes:
        check: The check that was run.
        status: How it ended.
        message: What was wrong, or why there was nothing to check, on one line; a program that shows it may follow.
        numbers: What was measured, as JSON values.
        seconds: How long it took.
        link: Of a deviation.
    """

    check: Check
    status: Status
    message: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    link: str = ""


@dataclass(frozen=True, slots=True)
class LevelVerdict:
    """One level.

    Attributes:
        level: 0 to 4.
        verdict: "no_verdict" if something was not executed; level 1 also if the adapter shows no operators.
        counts: Number of checks by status.
        missing: Capabilities that the level asks for and the backend does not declare.
    """

    level: int
    verdict: Verdict
    counts: Mapping[Status, int]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConformanceResult:
    """A run of the kit on one adapter with one dtype."""

    adapter: str
    backend: Mapping[str, Any]
    dtype: str
    form: str
    level: int
    factor: float
    outcomes: tuple[Outcome, ...]
    levels: tuple[LevelVerdict, ...]
    seconds: float
    profile: str = "step"
    seed: int = 0

    @property
    def verdict(self) -> Verdict:
        """Of the level that was asked for: every level up to it counts, level 1 only if it was judged."""
        verdicts = {item.level: item.verdict for item in self.levels}
        needed = [verdicts[level] for level in verdicts if level != 1 or verdicts[level] != "no_verdict"]
        ranks: tuple[Verdict, ...] = ("does_not_reach", "no_verdict", "known_deviations")
        return next((word for word in ranks if word in needed), "conforms" if needed else "no_verdict")

    @property
    def num_deviations(self) -> int:
        """Known deviations, without which the level would not be reached."""
        return sum(outcome.status == "deviation" for outcome in self.outcomes)

    @property
    def declared(self) -> tuple[int, int]:
        """How many of the interface's capabilities the backend declares, and how many there are."""
        known = {str(name) for name in Capability}
        return len(known & set(self.backend["capabilities"])), len(known)


def judge(level: int, outcomes: Sequence[Outcome], capabilities: frozenset[str]) -> LevelVerdict:
    """The verdict of one level.

    Args:
        level: 0 to 4.
        outcomes: Of this level's checks, every one of them.
        capabilities: What the backend declares.
    """
    counts: dict[Status, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    missing = tuple(sorted(str(name) for name in LEVEL_PROFILES[level] if name not in capabilities))
    verdict: Verdict = "known_deviations" if counts.get("deviation") else "conforms"
    if counts.get("failed") or missing or (counts.get("deviation") and not counts.get("passed")):
        verdict = "does_not_reach"
    elif counts.get("not_executed") or not counts.get("passed") or level not in LEVELS:
        verdict = "no_verdict"
    return LevelVerdict(level, verdict, counts, missing)
