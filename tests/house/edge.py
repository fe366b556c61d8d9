# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The public edge of ``genai_iface``, read from its sources: which rooms there are, and which names they export.

A room is a package. It is internal if its docstring begins with "Internal:" or if it lies in an internal one. What the
others list in ``__all__`` is the edge. A module without a leading underscore that lies in one of them is public too;
it has no name that its room does not export.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.house.sources import ROOT, imports, name_of, parsed, python_files

PACKAGE = "genai_iface"


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def rooms() -> tuple[str, ...]:
    """Every package, internal or not."""
    return tuple(module_of(path) for path in python_files(PACKAGE) if path.name == "__init__.py")


@cache
def file_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if module in rooms() else path.with_suffix(".py")


@cache
def is_internal(room: str) -> bool:
    doc = ast.get_docstring(parsed(file_of(room))) or ""
    return doc.startswith("Internal:") or (room != PACKAGE and is_internal(room.rpartition(".")[0]))


@cache
def listed(module: str) -> frozenset[str]:
    """A module's ``__all__``; empty without one."""
    for node in parsed(file_of(module)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@cache
def edge() -> dict[str, frozenset[str]]:
    """Room by room, what a vendor or user may import."""
    return {room: listed(room) for room in rooms() if not is_internal(room)}


@cache
def modules() -> dict[str, str]:
    """Every module that is not a room, with its room."""
    names = [module_of(path) for path in python_files(PACKAGE) if path.name not in ("__init__.py", "__main__.py")]
    return {name: name.rpartition(".")[0] for name in names}


def is_public(module: str) -> bool:
    """Whether a room or a module may be named by whoever is outside."""
    if module in edge():
        return True
    room = modules().get(module)
    return room in edge() and not module.rpartition(".")[2].startswith("_")


def may_import(module: str, name: str | None) -> bool:
    """Whether ``from module import name`` (None: ``import module``) stays at the edge."""
    if name is None:
        return is_public(module)
    return (is_public(module) and name in listed(module)) or f"{module}.{name}" in edge()


@cache
def origin(module: str, name: str) -> str:
    """Where a name is defined, "module.name", however often it is imported on the way."""
    for source, imported in imports(parsed(file_of(module))):
        if imported == name and (source in rooms() or source in modules()):
            return origin(source, name)
    return f"{module}.{name}"
