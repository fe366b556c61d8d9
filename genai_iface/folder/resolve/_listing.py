# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a model by name and size, as they lie in a folder or in a repository of a hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai_iface.errors import InvalidInputError
from genai_iface.folder._files import read_json

__all__ = ["MAX_DEPTH", "Listing", "list_folder"]

MAX_DEPTH = 2
"""Folders below the one that was given in which a model is looked for, one in the other."""

_MAX_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of one model.

    Attributes:
        name: What they are files of, for messages.
        sizes: Bytes by name, with forward slashes.
        read_json: Reads one of them that holds a JSON object; None if there is no such file.
        folder: Where the files are, if they are on this machine.
        fetch: Otherwise, brings a file here and gives the folder below which names are as in ``sizes``; None if that is
            not worth it.
    """

    name: str
    sizes: Mapping[str, int]
    read_json: Callable[[str], Mapping[str, Any] | None]
    folder: Path | None = None
    fetch: Callable[[str], Path | None] | None = None

    def names_in(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, "" for the top."""
        prefix = f"{folder}/" if folder else ""
        return [
            name[len(prefix) :] for name in self.sizes if name.startswith(prefix) and "/" not in name[len(prefix) :]
        ]


def list_folder(root: Path) -> Listing:
    """The files of a folder and of the folders in it, two levels deep. Links to folders are not followed.

    Args:
        root: The folder's real path.

    Raises:
        InvalidInputError: It cannot be read, or holds far more than a model.
    """
    sizes: dict[str, int] = {}
    pending = [(root, "", 0)]
    seen = 0
    for folder, prefix, depth in pending:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InvalidInputError(
                f"The folder {str(folder)!r} cannot be read: {error.strerror}", remedy="Check its permissions."
            ) from error
        seen += len(entries)
        if seen > _MAX_ENTRIES:
            raise InvalidInputError(
                f"{str(root)!r} holds more than {_MAX_ENTRIES} files, which is no model folder",
                remedy="Give the folder of the model itself, or its .onnx file.",
            )
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH:
                    pending.append((Path(entry.path), f"{prefix}{entry.name}/", depth + 1))
            elif (size := _size(entry)) is not None:
                sizes[prefix + entry.name] = size
    return Listing(str(root), sizes, lambda name: read_json(root, name), root)


def _size(entry: os.DirEntry[str]) -> int | None:
    """The size of a regular file; links are followed, what they lead to is judged where it is read."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:
        return None
