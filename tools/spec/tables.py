# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the specification that are taken from the code when the site is built."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType

from genai_iface.capabilities import LEVEL_PROFILES, Capability
from tools.spec.clauses import ROOT, SPEC

__all__ = ["NUMBERS", "TABLES"]

NUMBERS = SPEC / "worked-example.json"
STATES = SPEC / "state-example.json"


def _capabilities() -> str:
    lines = ["| Name | What it promises | From level |", "|---|---|---|"]
    for name, meaning in _meanings().items():
        needed = [level for level, profile in LEVEL_PROFILES.items() if name in profile]
        lines.append(f"| `{name}` | {meaning} | {min(needed) if needed else ''} |")
    return "\n".join(lines)


def _meanings() -> dict[str, str]:
    """The docstring below each member of ``Capability``, which Python itself does not keep."""
    tree = ast.parse((ROOT / "genai_iface" / "capabilities.py").read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == Capability.__name__)
    found = {}
    for member, text in pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr):
            found[ast.literal_eval(member.value)] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def _levels() -> str:
    from genai_iface.conformance import LEVELS, all_checks  # noqa: PLC0415 - the other tables need no kit

    lines = ["| Level | Subject | Checks | Capabilities that must be declared |", "|---|---|---|---|"]
    for level, subject in LEVELS.items():
        count = sum(check.level == level for check in all_checks())
        names = ", ".join(f"`{name}`" for name in sorted(LEVEL_PROFILES[level])) or "none"
        lines.append(f"| {level} | {subject} | {count} | {names} |")
    return "\n".join(lines)


def _core() -> str:
    from genai_iface.conformance import all_checks  # noqa: PLC0415 - the other tables need no kit
    from tools.spec.render import check_link  # noqa: PLC0415 - it needs this module

    by_reason: dict[str, list[str]] = {}
    for check in all_checks():
        if check.core:
            by_reason.setdefault(check.core, []).append(check_link(check.id))
    lines = ["| Core checks | Why |", "|---|---|"]
    return "\n".join([*lines, *(f"| {', '.join(links)} | {reason} |" for reason, links in by_reason.items())])


def _vectors() -> str:
    from tools.spec.vectors import FILE  # noqa: PLC0415 - the other tables need no sampler

    lines = ["| Case | Configuration | Kept | Drawn with seed 0, index 0 |", "|---|---|---|---|"]
    for case in json.loads(FILE.read_text(encoding="utf-8"))["cases"]:
        config = ", ".join(f"`{name}={json.dumps(value)}`" for name, value in case["config"].items())
        kept = " ".join(map(str, case["kept"]))
        lines.append(f"| {case['name']} | {config} | {kept} | {case['draws'][0]['token']} |")
    return "\n".join(lines)


def _example(story: str) -> str:
    lines = [
        "| Call | Rows | S | counts | lengths before | write_indices | nonpad_kv_seqlen | lengths after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for event in json.loads(NUMBERS.read_text(encoding="utf-8"))[story]:
        before, after = _join(event["before"]), event["error"] or _join(event["after"])
        counts = _join(map(len, event["tokens"]))
        for number, run in enumerate(event["runs"] or [None]):
            first = number == 0
            cells = [event["name"] if first else "", "", "", counts if first else "", before if first else "", "", ""]
            if run is not None:
                cells[1:3] = _join(run["rows"]), str(run["width"])
                cells[5:7] = _join(run["write_indices"]), _join(run["nonpad_kv_seqlen"])
            cells.append(after if number + 1 == max(1, len(event["runs"])) else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _states() -> str:
    lines = [
        "| Call | counts | lengths | state of row 0 | state of row 1 | row 0 can go to | row 1 can go to |",
        "|---|---|---|---|---|---|---|",
    ]
    for event in json.loads(STATES.read_text(encoding="utf-8")):
        counts = "" if event["counts"] is None else _join(event["counts"])
        held, reach = [" ".join(row) for row in event["states"]], [_join(row) for row in event["reachable"]]
        name = f"`{event['call']}`" if "(" in event["call"] else event["call"]
        call = name + (": refused" if event["error"] else "")
        lines.append(f"| {' | '.join([call, counts, _join(event['lengths']), *held, *reach])} |")
    return "\n".join(lines)


def _join(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


TABLES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "capabilities": _capabilities,
        "levels": _levels,
        "core-checks": _core,
        "sampling-vectors": _vectors,
        "example-linear": lambda: _example("linear"),
        "example-circular": lambda: _example("circular"),
        "state-example": _states,
    }
)
"""By name; a page says "- Table NAME, from [file](path)" on a line of its own."""
