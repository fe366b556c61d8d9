# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From what a user names to the files of one model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from genai_iface.errors import InvalidInputError
from genai_iface.folder._files import find_inside, hub_repository, open_root
from genai_iface.folder._load import MODEL_FILE
from genai_iface.folder.resolve._choose import choose
from genai_iface.folder.resolve._levels import levels_of
from genai_iface.folder.resolve._listing import Listing, list_folder
from genai_iface.folder.resolve._source import HubId, LocalPath, is_embedded, is_id, parse_source
from genai_iface.folder.resolve._variants import Variant, find_variants

__all__ = ["Located", "as_checkpoint", "as_path", "list_variants", "locate"]


@dataclass(frozen=True, slots=True)
class Located:
    """One model on this machine.

    Attributes:
        folder: The real path of the folder that holds its graph.
        file: The name of the graph's file in it.
        levels: The folders with its other files, the nearest first.
        notes: What was decided on the way, one line each.
    """

    folder: Path
    file: str
    levels: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """What names this model and no other: the folder, or the file where the folder alone would not do."""
        return self.folder if self.file == MODEL_FILE else self.folder / self.file


def locate(source: str | PathLike[str], *, variant: str | None = None, revision: str | None = None) -> Located:
    """Finds the files of a model; downloads them if it is named by an id and is not here.

    Args:
        source: A folder, a ``.onnx`` file, or an id ``ORG/NAME[:VARIANT]`` of the Hugging Face Hub.
        variant: Which of several models to take, by any name that ``inspect`` lists.
        revision: A branch, tag or commit of the repository.

    Raises:
        InvalidInputError: There is no such model, nothing decides between several, or it cannot be fetched.
        UnsupportedModelError: It is in a form that cannot be run.
    """
    found = parse_source(source)
    wanted = variant if variant is not None else found.variant
    if isinstance(found, HubId):
        from genai_iface.folder.resolve._hub import fetch_model  # noqa: PLC0415 - paths need no client of the hub

        fetched = fetch_model(found.repo_id, wanted, revision)
        return _located(fetched.snapshot, fetched.variant, fetched.notes)
    return _at_path(found, wanted, revision)


def as_path(
    source: str | PathLike[str], *, variant: str | None = None, revision: str | None = None
) -> str | PathLike[str]:
    """What a backend can be given: a path as it is, and in place of a name, or with a variant, the path of that model.

    Raises:
        GenAIError: As ``locate``.
    """
    if variant is None and revision is None and not is_id(source) and not is_embedded(source):
        return source
    return locate(source, variant=variant, revision=revision).path


def as_checkpoint(source: str | PathLike[str], *, revision: str | None = None) -> str | PathLike[str]:
    """A checkpoint's path as it is; in place of an id the folder that its files were downloaded to.

    Raises:
        InvalidInputError: There is no such repository, or it cannot be fetched.
    """
    found = parse_source(source) if is_id(source) else LocalPath(Path(source))
    if isinstance(found, LocalPath):
        _no_revision(found, revision)
        return source
    from genai_iface.folder.resolve._hub import fetch_checkpoint  # noqa: PLC0415 - paths need no client of the hub

    return fetch_checkpoint(found.repo_id, revision)


def list_variants(source: str | PathLike[str], *, revision: str | None = None) -> tuple[Listing, list[Variant]]:
    """All models that a source has, without opening or downloading one.

    Raises:
        InvalidInputError: There is no such source, or it cannot be read.
    """
    found = parse_source(source)
    if isinstance(found, HubId):
        from genai_iface.folder.resolve._hub import list_repository  # noqa: PLC0415

        listing = list_repository(found.repo_id, revision)
    else:
        _no_revision(found, revision)
        path = found.path if found.path.is_dir() else found.path.parent
        listing = list_folder(open_root(path))
    return listing, find_variants(listing)


def _at_path(found: LocalPath, wanted: str | None, revision: str | None) -> Located:
    _no_revision(found, revision)
    if not found.path.is_dir():
        return _at_file(found.path, wanted)
    root = open_root(found.path)
    if wanted is None and find_inside(root, MODEL_FILE) is not None:
        return Located(root, MODEL_FILE, levels_of(root, root))
    listing = list_folder(root)
    return _located(root, choose(listing, find_variants(listing), wanted))


def _at_file(path: Path, wanted: str | None) -> Located:
    if path.suffix != ".onnx":
        checkpoint = path.suffix in (".gguf", ".safetensors")
        raise InvalidInputError(
            f"{str(path)!r} is not a folder and no .onnx file",
            remedy=f"Build a folder from the checkpoint: genai-iface build {path} OUT."
            if checkpoint
            else "Give the folder that holds the model, or its .onnx file.",
        )
    if wanted is not None:
        raise InvalidInputError(
            f"{str(path)!r} is one file, and has no variant {wanted!r}",
            remedy="Leave the variant out, or give the folder.",
        )
    folder = open_root(path.parent)
    if path.is_symlink() and hub_repository(folder) is None:
        # A link that the user names is the user's; what it leads to has its files around it.
        path = Path(os.path.realpath(path))
        folder = path.parent
    return Located(folder, path.name, levels_of(folder, folder))


def _located(root: Path, variant: Variant, notes: tuple[str, ...] = ()) -> Located:
    folder = root / variant.folder if variant.folder else root
    return Located(folder, variant.file.rpartition("/")[2], levels_of(folder, root), notes)


def _no_revision(found: LocalPath, revision: str | None) -> None:
    if revision is not None:
        raise InvalidInputError(
            f"{str(found.path)!r} is a path, and has no revision {revision!r}",
            remedy="Leave the revision out, or give an id ORG/NAME.",
        )
