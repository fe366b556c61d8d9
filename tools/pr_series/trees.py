# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the tree of a step: its files and those of the steps before, and a ``pyproject.toml`` cut down to them."""

from __future__ import annotations

import hashlib
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from tools.pr_series.manifest import ROOT, Group, Series

__all__ = ["cut_pyproject", "write_hashes", "write_tree"]

_PYPROJECT = "pyproject.toml"
_IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)


def write_tree(series: Series, step: Group, out: Path, root: Path = ROOT) -> Path:
    """Writes ``step-N`` below a folder, and returns it."""
    tree = out / f"step-{step.number}"
    for path in series.up_to(step.number):
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target)
    if (tree / _PYPROJECT).exists():
        text = (root / _PYPROJECT).read_text(encoding="utf-8")
        licence = "".join(line for line in text.splitlines(keepends=True)[:2])
        cut = tomli_w.dumps(cut_pyproject(tomllib.loads(text), tree, step))
        (tree / _PYPROJECT).write_text(f"{licence}\n{cut}", encoding="utf-8")
    return tree


def write_hashes(series: Series, step: Group, out: Path, root: Path = ROOT) -> int:
    """Writes ``step-N.sha256``, the generated files that a step brings, as sha256sum reads it; returns their number."""
    paths = [path for path in series.files[step.title] if path in series.generated]
    lines = [f"{hashlib.sha256((root / path).read_bytes()).hexdigest()}  {path}\n" for path in paths]
    (out / f"step-{step.number}.sha256").write_text("".join(lines), encoding="utf-8")
    return len(paths)


def cut_pyproject(full: dict[str, Any], tree: Path, step: Group) -> dict[str, Any]:
    """What of ``pyproject.toml`` is about files that a tree has.

    Args:
        full: The repository's, parsed. It is changed.
        tree: The step's files.
        step: The step of the series that the tree belongs to.
    """
    project, tool = full["project"], full["tool"]
    if not (tree / project["readme"]).exists():
        del project["readme"]
    if not (tree / "genai_iface" / "cli").exists():
        del project["scripts"]
    points = project["entry-points"]["genai_iface.backends"]
    for name, point in list(points.items()):
        if not list(tree.glob(f"backends/*/{point.partition(':')[0]}")):
            del points[name]
    imported = {name for path in _sources(tree) for name in _IMPORT.findall(path.read_text(encoding="utf-8"))}
    project["dependencies"] = [
        text for text in project["dependencies"] if _distribution(text).replace("-", "_") in imported
    ]
    project["optional-dependencies"] = {
        name: [kept for text in wanted if (kept := _kept_extras(text, step.extras))]
        for name, wanted in project["optional-dependencies"].items()
        if name in step.extras
    }
    for table, key in (
        (tool["hatch"]["build"]["targets"]["wheel"], "packages"),
        (tool["hatch"]["build"], "dev-mode-dirs"),
        (tool["ruff"], "src"),
        (tool["mypy"], "files"),
        (tool["mypy"], "mypy_path"),
        (tool["pytest"]["ini_options"], "pythonpath"),
    ):
        table[key] = [path for path in table[key] if (tree / path).exists()]
    later = [name for module in step.later for name in (module, f"{module}.*")]
    if later:
        tool["mypy"]["overrides"].append({"module": later, "follow_imports": "skip", "ignore_missing_imports": True})
    return full


def _sources(tree: Path) -> list[Path]:
    return [path for folder in ("genai_iface", "backends") for path in (tree / folder).rglob("*.py")]


def _distribution(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else requirement


def _kept_extras(requirement: str, extras: tuple[str, ...]) -> str:
    """A requirement on extras of our own, without those that a step does not have; empty if none is left."""
    found = re.fullmatch(r"genai-iface\[([\w,-]+)\]", requirement)
    if not found:
        return requirement
    kept = [name for name in found[1].split(",") if name in extras]
    return f"genai-iface[{','.join(kept)}]" if kept else ""
