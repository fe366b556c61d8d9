# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The folders in which a model's tokenizer and configurations are looked for: its own, and those around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genai_iface.folder._files import find_inside, hub_repository
from genai_iface.folder.resolve._package import MANIFEST

__all__ = ["levels_of"]

_CLIMB = 2
_CONFIGS = ("config.json", "genai_config.json")


def levels_of(folder: Path, top: Path) -> tuple[Path, ...]:
    """The folders, the nearest first.

    Args:
        folder: The real path of the folder that holds the graph.
        top: The real path of the folder that the user named; ``folder`` lies in it.

    Returns:
        All from ``folder`` to ``top``. If there is no tokenizer or no configuration in them, up to two folders above as
        well: exporters put the graph into a folder below the other files. The shared folders of a model package last.
    """
    levels = [folder]
    while levels[-1] != top and levels[-1] != levels[-1].parent:
        levels.append(levels[-1].parent)
    climbed = top
    for _ in range(_CLIMB):
        if _is_complete(levels) or climbed == climbed.parent or _is_snapshot(climbed):
            break
        climbed = climbed.parent
        if any(find_inside(climbed, name) is not None for name in ("tokenizer.json", *_CONFIGS)):
            levels.append(climbed)
    packages = [level for level in levels if find_inside(level, MANIFEST) is not None]
    return (*levels, *(folder for package in packages for folder in _shared(package)))


def _shared(package: Path) -> list[Path]:
    """The folders of a package that its variants share; links are not followed."""
    assets = package / "shared_assets"
    found = sorted(entry for entry in assets.iterdir() if _is_own_folder(entry)) if _is_own_folder(assets) else []
    return [*found, *(entry for entry in (package / "configs",) if _is_own_folder(entry))]


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_complete(levels: Sequence[Path]) -> bool:
    has_tokenizer = any(find_inside(level, "tokenizer.json") is not None for level in levels)
    return has_tokenizer and any(find_inside(level, name) is not None for level in levels for name in _CONFIGS)


def _is_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots" and hub_repository(folder) is not None
