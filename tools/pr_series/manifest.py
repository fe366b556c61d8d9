# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which file belongs to which step: ``steps.toml``, read and applied to the tracked files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["MAX_FILES", "ROOT", "Group", "Series", "SeriesError", "read_series", "tracked_files"]

ROOT = Path(__file__).parents[2]
MAX_FILES = 120
"""In a step, beside what is generated."""


class SeriesError(Exception):
    """The files and the manifest do not fit together; each argument is one fault."""


@dataclass(frozen=True, slots=True)
class Group:
    """A step, the toolbox, or what is about the whole.

    Attributes:
        title: The name that the table shows.
        patterns: Of its files.
        number: Of a step; 0 for the others.
        what: One line for the reader.
        extras: Of ``pyproject.toml``, that the step's tree keeps.
        later: Modules that it names and that come later: for type checkers, or imported where they are used.
    """

    title: str
    patterns: tuple[str, ...]
    number: int = 0
    what: str = ""
    extras: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """The whole repository, divided.

    Attributes:
        groups: The steps in their order, then the others.
        files: Paths of each group, by its title.
        generated: Paths that programs have written.
        quick: What pytest is given for a quick run, by step.
    """

    groups: tuple[Group, ...]
    files: Mapping[str, tuple[str, ...]]
    generated: frozenset[str]
    quick: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[Group, ...]:
        """The steps alone."""
        return tuple(group for group in self.groups if group.number)

    def written(self, group: Group) -> list[str]:
        """What people have written in a group."""
        return [path for path in self.files[group.title] if path not in self.generated]

    def up_to(self, number: int) -> list[str]:
        """Every file of a step's tree."""
        return sorted(path for step in self.steps if step.number <= number for path in self.files[step.title])


@cache
def _as_regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/?|\*)", pattern)
    return re.compile(
        "".join({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    )


def tracked_files(root: Path = ROOT) -> list[str]:
    """What git knows of, and is there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return sorted(path for path in listed.stdout.split("\0") if path and (root / path).exists())


def read_series(files: Iterable[str] | None = None, *, manifest: str | None = None) -> Series:
    """Divides the repository.

    Args:
        files: Paths; what git knows of if None.
        manifest: Its text; that of ``steps.toml`` if None.

    Raises:
        SeriesError: A file belongs nowhere or to two groups alike, a pattern matches nothing, a step is too large.
    """
    text = (Path(__file__).parent / "steps.toml").read_text(encoding="utf-8") if manifest is None else manifest
    data = tomllib.loads(text)
    paths = tracked_files() if files is None else sorted(files)
    groups = (
        *(
            Group(
                step["title"],
                tuple(step["files"]),
                number,
                step.get("what", ""),
                tuple(step.get("extras", ())),
                tuple(step.get("later", ())),
            )
            for number, step in enumerate(data["step"], 1)
        ),
        Group("Toolbox", tuple(data["toolbox"]["files"])),
        Group("Whole repository", tuple(data["whole"]["files"])),
    )
    faults: list[str] = []
    used: set[str] = set()
    found: dict[str, list[str]] = {group.title: [] for group in groups}
    for path in paths:
        fitting = [
            (len(pattern), pattern, group)
            for group in groups
            for pattern in group.patterns
            if _as_regex(pattern).fullmatch(path)
        ]
        used.update(pattern for _, pattern, _ in fitting)
        longest = max((length for length, _, _ in fitting), default=0)
        owners = {group.title for length, _, group in fitting if length == longest}
        if len(owners) != 1:
            faults.append(f"{path}: {'in ' + ' and '.join(sorted(owners)) if owners else 'in no step'}")
            continue
        found[owners.pop()].append(path)
    patterns = tuple(data["generated"]["files"])
    generated = frozenset(path for path in paths if any(_as_regex(pattern).fullmatch(path) for pattern in patterns))
    used.update(pattern for pattern in patterns if any(_as_regex(pattern).fullmatch(path) for path in paths))
    everything = {pattern for group in groups for pattern in group.patterns} | set(patterns)
    faults += [f"{pattern}: no file is like this" for pattern in sorted(everything - used)]
    quick = {int(number): tuple(arguments) for number, arguments in data.get("quick", {}).items()}
    series = Series(groups, {title: tuple(files) for title, files in found.items()}, generated, quick)
    for step in series.steps:
        if len(series.written(step)) > MAX_FILES:
            faults.append(f"step {step.number} has {len(series.written(step))} files; {MAX_FILES} can be reviewed")
    if faults:
        raise SeriesError(*faults)
    return series
