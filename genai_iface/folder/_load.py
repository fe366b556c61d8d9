# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads ``model.onnx`` into ONNX IR, and turns whatever is wrong with the file into one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import ModelProto
from onnx.checker import ValidationError
from onnx_ir.serde import SerdeError

from genai_iface.errors import GenAIError, InvalidInputError
from genai_iface.folder._files import find_inside, read_inside
from genai_iface.folder._inline import inline_functions
from genai_iface.folder._structure import BROKEN, check_structure
from genai_iface.folder._tensors import check_tensors

__all__ = ["MODEL_FILE", "read_model"]

MODEL_FILE = "model.onnx"
# Protobuf's own limit for one message.
_MAX_MODEL_BYTES = 2**31 - 1

# What protobuf, onnx and onnx-ir raise for a broken model.
_UNREADABLE = (
    SerdeError,
    ValidationError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)

T = TypeVar("T")


def read_model(root: Path, *, inline: bool = True) -> tuple[ir.Model, tuple[Path, ...]]:
    """Reads and checks the model of a folder.

    Args:
        root: The folder's real path.
        inline: Replace calls of the model's local functions by their bodies.

    Returns:
        The model, external data still on disk, and the real paths of all its files.

    Raises:
        InvalidInputError: The file is missing or broken, or its external data is.
    """
    content = read_inside(root, MODEL_FILE, limit=_MAX_MODEL_BYTES)
    path = find_inside(root, MODEL_FILE)
    if content is None or path is None:
        raise InvalidInputError(
            f"There is no {MODEL_FILE} in {str(root)!r}",
            remedy=f"Give the folder that holds it, or rename the model's file to {MODEL_FILE}.",
        )
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise InvalidInputError(
            f"{str(path)!r} is not an ONNX model, or not all of it: {error}", remedy="Copy or export the model again."
        ) from error
    if not proto.graph.node:
        raise InvalidInputError(f"{str(path)!r} contains no graph with nodes ({len(content)} bytes)", remedy=BROKEN)
    _guard(path, lambda: check_structure(proto))
    files = _guard(path, lambda: check_tensors(proto, root))
    if inline and proto.functions:
        _guard(path, lambda: inline_functions(proto))
    model = _guard(path, lambda: ir.serde.deserialize_model(proto))
    if files:
        ir.external_data.set_base_dir(model.graph, root)
    return model, (path, *files)


def _guard(path: Path, action: Callable[[], T]) -> T:
    """Runs code that meets a broken model; these are what protobuf and onnx-ir raise for one."""
    try:
        return action()
    except GenAIError:
        raise
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{str(path)!r} contains a name that is not UTF-8", remedy=BROKEN) from error
    except _UNREADABLE as error:
        # SerdeError's own text holds the whole model; the cause says what is wrong.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InvalidInputError(f"{str(path)!r} holds a broken graph: {str(cause)[:300]}", remedy=BROKEN) from error
