# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The registry: every check with its public id. Ids are never renamed; a check that changes gets a new one."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from genai_iface.conformance import checks

if TYPE_CHECKING:
    from genai_iface.conformance._context import Context

__all__ = ["LEVELS", "PROFILES", "Check", "all_checks", "check"]

LEVELS = {0: "interface", 1: "operators", 2: "cache", 3: "logits", 4: "generation"}
"""What each level is about."""

PROFILES = {
    "step": "model and cache: every step, its logits, and what the cache does",
    "generator": "a loop of the runtime's own: tokens in, the next token, its logits, and the way back",
    "text": "prompts in, text out, with tokens and log-probabilities where it shows them",
}
"""What a target lets one see."""

# Half of a run's time: programs, rows of thousands of tokens, other processes and threads, models with states.
_TAKES_LONG = (
    "L2.checkpoint.",
    "L2.idle.longer_row",
    "L2.save.other_process",
    "L2.state.",
    "L2.walk.",
    "L3.golden.long_context",
    "L3.same.growth",
    "L3.same.threads",
    "L3.state.",
    "L4.greedy.long_context",
    "L4.processors.",
    "L4.sampling.large_seed",
    "L4.state.",
    "L4.stop.string_over_long_tokens",
    "L4.tokenizer.",
)
_ID = re.compile(r"L[0-4](\.[a-z0-9_]+){2,}")

CheckFunction: TypeAlias = "Callable[[Context], None]"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        id: Public name, "L2.write.per_row_indices".
        level: 0 to 4.
        title: What it checks, in one line.
        requires: Capabilities without which it has no subject.
        since: The interface version that it belongs to.
        spec: The clauses of the specification that it checks, "Model.forward.5".
        run: Returns, or raises ConformanceFailure or NotApplicable.
        core: Why no runtime may list it as a deviation; empty where one may.
        profiles: What a target must let one see for it to run, of ``PROFILES``.
    """

    id: str
    level: int
    title: str
    requires: frozenset[str]
    since: int
    spec: tuple[str, ...]
    run: CheckFunction
    core: str = ""
    profiles: frozenset[str] = frozenset({"step"})

    @property
    def takes_long(self) -> bool:
        """Whether a quick run leaves it out."""
        return self.id.startswith(_TAKES_LONG)


_CHECKS: dict[str, Check] = {}


def check(
    identifier: str,
    *,
    requires: Iterable[str] = (),
    spec: Iterable[str] = (),
    since: int = 1,
    title: str = "",
    core: str = "",
    profiles: Iterable[str] = ("step",),
) -> Callable[[CheckFunction], CheckFunction]:
    """Registers a function as a check; its docstring's first line is the title.

    Args:
        identifier: The check's id, "L<level>.<subject>.<case>".
        requires: Capabilities without which the check does not apply.
        spec: Clauses of the specification.
        since: The interface version that brought what it checks.
        title: Instead of the docstring, for checks that are made in a loop.
        core: Why no runtime may list it as a deviation, in one sentence.
        profiles: The profiles of targets that it can run in.

    Raises:
        ValueError: The id is malformed or taken, or there is no such profile.
    """
    if not _ID.fullmatch(identifier):
        raise ValueError(f"{identifier!r} is not a check id")
    if identifier in _CHECKS:
        raise ValueError(f"the check id {identifier!r} is taken")
    if unknown := set(profiles) - PROFILES.keys():
        raise ValueError(f"the check {identifier!r} names the profile {sorted(unknown)[0]!r}, which there is not")

    def register(run: CheckFunction) -> CheckFunction:
        line = title or (run.__doc__ or "").strip().partition("\n")[0]
        _CHECKS[identifier] = Check(
            identifier,
            int(identifier[1]),
            line.rstrip("."),
            frozenset(map(str, requires)),
            since,
            tuple(spec),
            run,
            core,
            frozenset(profiles),
        )
        return run

    return register


def all_checks(*, level: int = 4) -> list[Check]:
    """All checks up to a level: by level, within it in the order of the files, whatever was imported first."""
    places: dict[str, int] = {}
    for room in pkgutil.iter_modules(checks.__path__, f"{checks.__name__}."):
        for module in importlib.import_module(room.name).MODULES:
            name = f"{room.name}.{module}"
            importlib.import_module(name)
            places[name] = len(places)
    found = (item for item in _CHECKS.values() if item.level <= level)
    return sorted(found, key=lambda item: (item.level, places.get(item.run.__module__, len(places))))
