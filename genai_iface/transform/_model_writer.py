# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a changed model beside the other files of its folder: all of it or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from genai_iface._new_files import clear_stale, temporary_name, writing_to
from genai_iface.errors import BackendError, InvalidInputError, OutputError
from genai_iface.folder._files import TEMPLATES_FOLDER, find_inside, list_inside

__all__ = ["copy_companions", "new_folder", "save_checked"]

_COPIED = frozenset({".json", ".jinja", ".txt", ".model", ".md"})
# It describes the graph that was, for another stack.
_LEFT_OUT = frozenset({"genai_config.json"})
_DATA = "model.onnx.data"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when the block ends well, and is removed otherwise.

    Raises:
        InvalidInputError: ``out`` exists and holds something.
        OutputError: It cannot be written, or another process has made it meanwhile.
    """
    # The last part of "." is not a name.
    given, out = str(out), Path(os.path.realpath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{given!r} exists already", remedy="Give a new folder, or remove that one first.")
    made = out.parent / temporary_name(out.name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clear_stale(out.parent)
        made.mkdir(mode=0o700)
    except OSError as error:
        raise OutputError(
            f"{given!r} cannot be made: {error.strerror}", remedy="Give a folder that you may write to."
        ) from error
    try:
        with writing_to(out):
            yield made
            mask = os.umask(0)
            os.umask(mask)
            made.chmod(0o777 & ~mask)
        _take_name(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _take_name(made: Path, out: Path) -> None:
    try:
        if out.is_dir():
            out.rmdir()
        made.replace(out)
    except OSError as error:
        raise OutputError(
            f"{str(out)!r} cannot be made: {error.strerror}; perhaps another process has made it meanwhile",
            remedy="Look at what is there, or give another folder.",
        ) from error


def copy_companions(root: Path, made: Path) -> list[str]:
    """Copies tokenizer, templates, configurations and licences; returns their names.

    Raises:
        InvalidInputError: A file is a link that leads out of the folder.
    """
    named = [
        path.name
        for path in sorted(root.iterdir())
        if (path.suffix in _COPIED or path.name.upper().startswith(("LICENSE", "NOTICE")))
        and path.name not in _LEFT_OUT
        and not path.is_dir()
    ]
    named += [f"{TEMPLATES_FOLDER}/{name}" for name in list_inside(root, TEMPLATES_FOLDER, ".jinja")]
    copied = []
    for name in named:
        real = find_inside(root, name)
        if real is not None:
            (made / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(real, made / name)
            copied.append(name)
    return copied


def save_checked(model: ir.Model, made: Path, *, external: bool) -> None:
    """Saves ``model.onnx`` and looks at it with onnx.checker.

    Args:
        model: The model to save.
        made: The folder to write to.
        external: Weights go to a file of their own.

    Raises:
        BackendError: onnx.checker refuses it, or it is too large for one file.
    """
    path = made / "model.onnx"
    try:
        ir.save(model, path, external_data=_DATA if external else None)
        onnx.checker.check_model(path)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise BackendError(
            f"The converted model is not legal: {str(error)[:300]}",
            remedy="This is a fault of the conversion; please report it with the source model.",
        ) from error
