# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a step imports what comes after it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.pr_series.manifest import ROOT, Series

__all__ = ["import_faults"]

_PACKAGES = ("genai_iface", "tests", "tools", "benchmarks", "examples")


def import_faults(series: Series, root: Path = ROOT) -> list[str]:
    """Imports that run against the series, one line each.

    An import inside a function or for type checkers is legal where the step names the module as one that comes later.
    """
    modules = _modules(series)
    faults = []
    for step in series.steps:
        there = {name for name, number in modules.items() if 0 < number <= step.number}
        for path in series.files[step.title]:
            if not path.endswith(".py"):
                continue
            for name, is_late in _imports(ast.parse((root / path).read_text(encoding="utf-8"), path)):
                target = _module_of(name, modules)
                if target is None or target in there:
                    continue
                if is_late and any(f"{target}.".startswith(f"{later}.") for later in step.later):
                    continue
                faults.append(f"{path} of step {step.number} imports {target}, which comes later")
    return faults


def _modules(series: Series) -> dict[str, int]:
    """Every module of the repository with the number of its step."""
    found = {}
    for group in series.groups:
        for path in series.files[group.title]:
            parts = Path(path).with_suffix("").parts
            if not path.endswith(".py"):
                continue
            if parts[0] == "backends":
                parts = parts[2:]
            elif parts[0] not in _PACKAGES:
                continue
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = group.number
    return found


def _module_of(name: str, modules: dict[str, int]) -> str | None:
    """The module that holds a dotted name; None if it is not of this repository."""
    while name:
        if name in modules:
            return name
        name = name.rpartition(".")[0]
    return None


def _imports(tree: ast.AST, *, is_late: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported name, and whether importing the module does not import it yet."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, is_late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", is_late) for alias in node.names)
        else:
            waits = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            )
            yield from _imports(node, is_late=is_late or waits)
