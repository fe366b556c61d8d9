# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a model file into ONNX IR, and turns whatever is wrong with the file into one error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import ModelProto
from onnx.checker import ValidationError
from onnx_ir.serde import SerdeError

from genai_iface.errors import GenAIError, InvalidInputError
from genai_iface.folder._files import find_inside, hub_repository, read_inside
from genai_iface.folder._inline import inline_functions
from genai_iface.folder._nodes import BROKEN
from genai_iface.folder._structure import check_structure
from genai_iface.folder._tensors import check_tensors, relocate

__all__ = ["MODEL_FILE", "ReadModel", "read_model"]

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


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A model file that was read.

    Attributes:
        model: The graph, external data still on disk.
        files: The real path of the model file and of its external data, by the names that they have in the folder.
        weights: The folder that the names of external data in ``model`` are relative to.
    """

    model: ir.Model
    files: Mapping[str, Path]
    weights: Path


def read_model(root: Path, name: str = MODEL_FILE, *, inline: bool = True, data: bool = True) -> ReadModel:
    """Reads and checks a model of a folder.

    Args:
        root: The folder's real path.
        name: The name of the model's file in it.
        inline: Replace calls of the model's local functions by their bodies.
        data: Check weights, and find the files that they are in; without it only the graph may be used.

    Raises:
        InvalidInputError: The file is missing or broken, or its external data is.
    """
    content = read_inside(root, name, limit=_MAX_MODEL_BYTES)
    path = find_inside(root, name)
    if content is None or path is None:
        raise InvalidInputError(
            f"There is no {name} in {str(root)!r}", remedy="Give the folder that holds it, or the file itself."
        )
    shown = root / name
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise InvalidInputError(
            f"{str(shown)!r} is not an ONNX model, or not all of it: {error}", remedy="Copy or export the model again."
        ) from error
    if not proto.graph.node:
        raise InvalidInputError(f"{str(shown)!r} contains no graph with nodes ({len(content)} bytes)", remedy=BROKEN)
    _guard(shown, lambda: check_structure(proto))
    external = _guard(shown, lambda: check_tensors(proto, root)) if data else {}
    weights = root
    repository = hub_repository(root)
    if repository is not None and any(not file.is_relative_to(root) for file in external.values()):
        # Runtimes and ONNX IR look through links, and take what lies outside of the folder for an attack.
        weights = repository
        relocate(proto, external, repository)
    if inline and proto.functions:
        _guard(shown, lambda: inline_functions(proto))
    model = _guard(shown, lambda: ir.serde.deserialize_model(proto))
    if external:
        ir.external_data.set_base_dir(model.graph, weights)
    return ReadModel(model, {name: path} | dict(sorted(external.items())), weights)


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
