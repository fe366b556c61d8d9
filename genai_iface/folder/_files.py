# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads files of a model folder, and nothing outside it: no links out, no pipes, no devices."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from genai_iface._json_object import MAX_CONFIG_BYTES, parse_object
from genai_iface.errors import InvalidInputError

__all__ = [
    "MAX_TOKENIZER_BYTES",
    "TEMPLATES_FOLDER",
    "TOKENIZER_FILES",
    "find_inside",
    "hub_repository",
    "list_inside",
    "open_root",
    "read_inside",
    "read_json",
]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a tokenizer and its chat template are read from."""
TEMPLATES_FOLDER = "additional_chat_templates"
"""Where chat templates with names of their own lie."""

MAX_TOKENIZER_BYTES = 256 * 2**20
"""No tokenizer.json may be larger."""

# Of a folder's files of one kind.
_MOST_FILES = 256
# What a message shows of a stranger's text.
_SHOWN = 200

_INSIDE = "Copy the file itself into the folder (cp -L follows links) and name it relative to the folder."


def open_root(path: str | PathLike[str]) -> Path:
    """The folder's real path.

    Raises:
        InvalidInputError: There is no such folder.
    """
    try:
        root = Path(os.path.realpath(path, strict=True))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"The model folder {os.fspath(path)!r} cannot be opened: {_reason(error)}",
            remedy="Give the path of a folder that holds model.onnx.",
        ) from error
    if not root.is_dir():
        raise InvalidInputError(
            f"{os.fspath(path)!r} is not a folder", remedy="Give the folder that holds model.onnx, not a file."
        )
    return root


def hub_repository(root: Path) -> Path | None:
    """The folder ``models--ORG--NAME`` that a snapshot of the Hugging Face cache belongs to, None for any other folder.

    Args:
        root: A folder, as ``open_root`` returned it.
    """
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            return folder.parent.parent
    return None


def find_inside(root: Path, name: str) -> Path | None:
    """The real path of a file of the folder, None if there is no such file.

    In a snapshot of the Hugging Face cache a file may be a link to ``blobs/`` of the same repository.

    Args:
        root: The folder, as ``open_root`` returned it.
        name: The path relative to it, with forward slashes.

    Raises:
        InvalidInputError: The name leaves the folder, or it is not a regular file.
    """
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    if not parts or PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise InvalidInputError(f"The file name {name!r} leaves the model folder {str(root)!r}", remedy=_INSIDE)
    try:
        real = Path(os.path.realpath(root.joinpath(*parts), strict=True))
        information = real.stat()
    except FileNotFoundError as error:
        if root.joinpath(*parts).is_symlink():
            raise InvalidInputError(f"{name!r} in {str(root)!r} is a link to nothing", remedy=_INSIDE) from error
        return None
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{name!r} in the model folder {str(root)!r} cannot be opened: {_reason(error)}",
            remedy="Check the file and its permissions.",
        ) from error
    if not real.is_relative_to(root) and not _is_blob(real, root):
        raise InvalidInputError(f"{name!r} is a link that leaves the model folder {str(root)!r}", remedy=_INSIDE)
    if not stat.S_ISREG(information.st_mode):
        raise InvalidInputError(f"{name!r} in {str(root)!r} is not a regular file", remedy="Put a regular file there.")
    return real


def _is_blob(real: Path, root: Path) -> bool:
    """Whether a link of a cache snapshot leads to where the cache keeps the files of that repository."""
    repository = hub_repository(root)
    return repository is not None and real.parent == repository / "blobs"


def read_inside(root: Path, name: str, *, limit: int) -> bytes | None:
    """The content of a file of the folder, None if there is no such file.

    Raises:
        InvalidInputError: It leaves the folder, is not a regular file, is too large, or cannot be read.
    """
    path = find_inside(root, name)
    if path is None:
        return None
    # Without O_NONBLOCK a pipe that takes the file's place now would block the caller.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            # Python reserves as much memory as it is asked to read.
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > limit else file.read(size + 1)
    except OSError as error:
        raise InvalidInputError(
            f"{name!r} in {str(root)!r} cannot be read: {_reason(error)}", remedy="Check the file and its permissions."
        ) from error
    if max(size, len(content)) > limit:
        raise InvalidInputError(
            f"{name!r} in {str(root)!r} is larger than {limit} bytes", remedy="Use a file of the usual size."
        )
    return content


def list_inside(root: Path, folder: str, suffix: str) -> list[str]:
    """The names of the files in a folder of the folder that end with a suffix; none if there is no such folder.

    Raises:
        InvalidInputError: It leads out of the folder, cannot be listed, or holds too many.
    """
    place = root / folder
    if not place.is_dir():
        return []
    if not place.resolve().is_relative_to(root):
        raise InvalidInputError(f"{folder!r} is a link that leaves the model folder {str(root)!r}", remedy=_INSIDE)
    try:
        names = sorted(file.name for file in place.iterdir() if file.name.endswith(suffix))
    except OSError as error:
        raise InvalidInputError(
            f"{folder!r} in {str(root)!r} cannot be listed: {_reason(error)}", remedy="Check its permissions."
        ) from error
    if len(names) > _MOST_FILES:
        raise InvalidInputError(
            f"{folder!r} in {str(root)!r} holds {len(names)} files {suffix}, at most {_MOST_FILES} are read",
            remedy="Leave those that the model needs.",
        )
    return names


def read_json(root: Path, name: str) -> Mapping[str, Any] | None:
    """A JSON object of the folder, None if there is no such file.

    Raises:
        InvalidInputError: As ``read_inside``; or it is not a JSON object in UTF-8.
    """
    content = read_inside(root, name, limit=MAX_CONFIG_BYTES)
    if content is None:
        return None
    try:
        return parse_object(content)
    except ValueError as error:
        raise InvalidInputError(
            f"{name!r} in {str(root)!r} cannot be used: {_reason(error)}",
            remedy=f"Repair {name}: it must hold one JSON object in UTF-8 without a byte-order mark.",
        ) from error


def _reason(error: BaseException) -> str:
    """The error in a few words, without the file names that the caller gives anyway."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:_SHOWN]
