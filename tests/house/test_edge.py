# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Public has an edge: what a vendor or user may import, who may import only that, and where it is documented."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.house.edge import PACKAGE, edge, is_public, listed, may_import, modules, origin, rooms
from tests.house.sources import ROOT, imports, name_of, parsed, python_files

# Not yet there; whoever finishes one of these takes it out.
OPEN_ROOMS: set[str] = set()
OPEN_PAGES: set[str] = set()

# Sources that stand outside: backends, examples, and the adapters that the command line is pointed at.
OUTSIDE = [
    *python_files("backends"),
    *python_files("examples"),
]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

# What looks like a module and is none: the entry-point group, and keys in a model's metadata.
NO_MODULES = ("genai_iface.backends", "genai_iface.verified")

MAX_FILES = 15
ROOMS = sorted(
    {path.parent for folder in (PACKAGE, "backends", "tests", "tools") for path in python_files(folder)}, key=name_of
)

_IMPORT = re.compile(rf"\bfrom ({PACKAGE}[\w.]*) import (\([^)]*\)|[^\n#;\"']+)")
_DOTTED = re.compile(rf"(?<![\w./-]){PACKAGE}(?:\.\w+)+")
_RENDERED = re.compile(r"^::: (\S+)\n((?: {4}.*\n)*)", re.MULTILINE)


def is_open(module: str) -> bool:
    return any(f"{module}.".startswith(f"{room}.") for room in OPEN_ROOMS)


def test_a_module_is_public_as_a_whole_or_its_name_says_that_it_is_not() -> None:
    bad = []
    for module, room in modules().items():
        if is_public(module) and not is_open(module) and not (listed(module) and listed(module) <= listed(room)):
            kept = sorted(listed(module) - listed(room))
            bad.append(f"{module}: {room} does not export {', '.join(kept) or 'anything of it'}")
    assert not bad


@pytest.mark.parametrize("room", sorted(edge()))
def test_a_room_exports_what_there_is(room: str) -> None:
    holds_rooms = any(other.startswith(f"{room}.") for other in edge())
    assert listed(room) or holds_rooms, "a room that exports nothing says that it is internal"
    if room not in (
        "genai_iface.build",
        "genai_iface.integrations.transformers",
        "genai_iface.serving",
    ):  # need torch, ray
        module = importlib.import_module(room)
        assert not [name for name in listed(room) if not hasattr(module, name)]
    lost = [
        name
        for name in listed(room)
        if (where := origin(room, name)).rpartition(".")[0] != room and name not in listed(where.rpartition(".")[0])
    ]
    assert not lost


@pytest.mark.parametrize("path", OUTSIDE, ids=name_of)
def test_who_stands_outside_imports_only_the_edge(path: Path) -> None:
    bad = [
        f"{name or module} of {module}"
        for module, name in imports(parsed(path))
        if module.partition(".")[0] == PACKAGE and not may_import(module, name)
    ]
    assert not bad


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_texts_name_only_the_edge(path: Path) -> None:
    assert bad_names(path.read_text(encoding="utf-8")) == [] or name_of(path) in OPEN_PAGES


def bad_names(text: str) -> list[str]:
    """What a text imports or names of the package that is not of its edge."""
    bad = []
    for module, what in _IMPORT.findall(text):
        names = [name.split(" as ")[0].strip() for name in what.strip("()").split(",")]
        bad += [f"{name} of {module}" for name in names if name and not may_import(module, name)]
    for dotted in _DOTTED.findall(text):
        if any(f"{dotted}.".startswith(f"{name}.") for name in NO_MODULES):
            continue
        # A public module, or a name of one and whatever belongs to that.
        parts = dotted.split(".")
        prefixes = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        module = max((name for name in prefixes if name in rooms() or name in modules()), key=len)
        rest = parts[module.count(".") + 1 :]
        if not is_public(module) or (rest and not may_import(module, rest[0])):
            bad.append(dotted)
    return bad


@pytest.mark.parametrize(
    "text",
    [
        "from genai_iface import available_memory, no_such_name",
        "    from genai_iface.generation.text.stream import Detokenizer",
        "from genai_iface.folder import (\n    open_folder,\n    read_model,\n)",
        "python -c 'from genai_iface.folder._files import find_inside'",
        "the function `genai_iface.build._build.build`",
        "`genai_iface.transform.quantize.nothing`",
    ],
)
def test_a_text_that_reaches_inside_is_found(text: str) -> None:
    assert bad_names(text)


def rendered() -> Counter[str]:
    """Where each name that the pages of the reference ask for is defined, with how often it is asked for."""
    found: Counter[str] = Counter()
    for page in sorted((ROOT / "docs/reference").glob("*.md")):
        for module, options in _RENDERED.findall(page.read_text(encoding="utf-8") + "\n"):
            members = re.search(r"^ +members: \[([\w, ]+)\]$", options, re.MULTILINE)
            names = members[1].split(", ") if members else sorted(listed(module))
            assert is_public(module), f"{page.name} renders {module}"
            assert set(names) <= listed(module), f"{page.name} renders more of {module} than it exports"
            found.update(origin(module, name) for name in names)
    return found


def test_the_reference_shows_the_edge_and_nothing_else() -> None:
    exported = {origin(room, name) for room, names in edge().items() for name in names if not is_open(room)}
    shown = {name for name in rendered() if not is_open(name)}
    assert shown == exported
    assert max(rendered().values()) == 1
    # A page that names a module shows what the module's __all__ says.
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^ +filters: public$", text, re.MULTILINE)


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_a_room_has_at_most_15_files(room: Path) -> None:
    assert len(list(room.glob("*.py"))) <= MAX_FILES
