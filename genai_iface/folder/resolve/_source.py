# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a user names a model by: a path of this machine, an id of the Hugging Face Hub, or the embedded model's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from genai_iface.errors import InvalidInputError
from genai_iface.models import EMBEDDED, default_folder

__all__ = ["HubId", "LocalPath", "is_embedded", "is_id", "parse_source"]

# ORG/NAME[:VARIANT]; the hub allows letters, digits, and . _ - between them.
_ID = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::([^:\s][^:\n]*))?", re.ASCII)
# What nobody calls a repository, and everybody a file or a folder.
_FILES = (".onnx", ".gguf", ".json", ".safetensors")


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A path that exists.

    Attributes:
        path: As it was given.
        variant: What stood behind a colon.
    """

    path: Path
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository.

    Attributes:
        repo_id: ORG/NAME.
        variant: What stood behind a colon.
    """

    repo_id: str
    variant: str | None = None


def is_id(source: str | PathLike[str]) -> bool:
    """Whether ``parse_source`` takes it for a repository."""
    return isinstance(source, str) and not _exists(Path(source)) and _as_id(source) is not None


def is_embedded(source: str | PathLike[str]) -> bool:
    """Whether it is the name of the embedded model, and of nothing that exists."""
    return source == EMBEDDED and not _exists(Path(source))


def parse_source(source: str | PathLike[str]) -> LocalPath | HubId:
    """Tells a path from a name. What exists is a path; only a text, and no ``Path``, may be an id or a name.

    Raises:
        InvalidInputError: It is neither.
    """
    path = Path(source)
    if _exists(path):
        return LocalPath(path)
    if is_embedded(source):
        return LocalPath(default_folder())
    text = source if isinstance(source, str) else ""
    before, _, variant = text.rpartition(":")
    if before and variant and _exists(Path(before)):
        return LocalPath(Path(before), variant)
    found = _as_id(text)
    if found is not None:
        return found
    raise InvalidInputError(
        f"{str(source)!r} cannot be opened: there is no such file or folder",
        remedy="Give a folder that holds a model, a .onnx file, the id of a repository (ORG/NAME[:VARIANT]), or "
        f"{EMBEDDED!r}, the model that comes with the package.",
    )


def _as_id(text: str) -> HubId | None:
    found = _ID.fullmatch(text)
    before = text.rpartition(":")[0]
    is_file = found is not None and (before.endswith(_FILES) or found[1].endswith(_FILES))
    if found is None or is_file or ".." in found[1] or (before and _exists(Path(before))):
        return None
    return HubId(found[1], found[2])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # Too long a name, or one with a null character.
        return False
