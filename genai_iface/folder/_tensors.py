# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the weights of a model file: complete where they are inside, and where they may be outside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from genai_iface.errors import InvalidInputError
from genai_iface.folder._files import find_inside

__all__ = ["check_tensors", "external_names", "relocate"]

_REMEDY = "Copy or export the model again; the file is incomplete or was changed."
# NumPy has no more axes.
_MAX_RANK = 64
# Each is looked up on disk; exporters that write a file for each tensor stay far below.
_MAX_FILES = 16_384
_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
# The fields that hold each type when raw_data does not, and how many entries a complex number takes.
_INT32_TYPES = frozenset(
    number
    for number in TensorProto.DataType.values()
    if number
    not in (
        TensorProto.UNDEFINED,
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.INT64,
        TensorProto.UINT32,
        TensorProto.UINT64,
        TensorProto.STRING,
        TensorProto.COMPLEX64,
        TensorProto.COMPLEX128,
    )
)


def check_tensors(model: ModelProto, root: Path) -> dict[str, Path]:
    """Checks every tensor of a model.

    Args:
        model: The parsed model, its external data not yet loaded.
        root: The folder that external data must stay in.

    Returns:
        The real paths of the external data files by the names that the model has for them.

    Raises:
        InvalidInputError: A tensor is incomplete, or its external data is missing, too short or
            outside the folder.
    """
    files: dict[str, tuple[Path, int]] = {}
    for tensor in _tensors(model):
        if tensor.data_type not in _TYPES:
            raise InvalidInputError(
                f"The tensor {tensor.name!r} has the unknown type {tensor.data_type}", remedy=_REMEDY
            )
        if len(tensor.dims) > _MAX_RANK:
            raise InvalidInputError(
                f"The tensor {tensor.name!r} has {len(tensor.dims)} axes, at most {_MAX_RANK} are read", remedy=_REMEDY
            )
        if any(size < 0 for size in tensor.dims):
            raise InvalidInputError(
                f"The tensor {tensor.name!r} has a negative size: {list(tensor.dims)}", remedy=_REMEDY
            )
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(tensor, root, files)
        else:
            _check_inline(tensor)
    return {location: path for location, (path, _) in files.items()}


def external_names(model: ModelProto) -> list[str]:
    """The files of external data as the model names them, unchecked."""
    entries = (entry for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(entry.value for entry in entries))


def relocate(model: ModelProto, files: Mapping[str, Path], base: Path) -> None:
    """Names the external data by real paths, relative to a folder above them all.

    Args:
        model: The model that ``check_tensors`` has checked.
        files: What it returned.
        base: The folder.
    """
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = files[entry.value].relative_to(base).as_posix()


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
        yield from _attribute_tensors(function.attribute_proto)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        if attributes := node.attribute:
            yield from _attribute_tensors(attributes)


def _attribute_tensors(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
        if attribute.type == AttributeProto.GRAPH:
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _bytes_needed(tensor: TensorProto) -> int:
    elements: int = math.prod(tensor.dims)
    width: int = ir.DataType(tensor.data_type).bitwidth
    return -(-elements * width // 8)


def _check_inline(tensor: TensorProto) -> None:
    """As many values as the shape asks for."""
    elements = math.prod(tensor.dims)
    kind = tensor.data_type
    if kind == TensorProto.STRING:
        held, needed = len(tensor.string_data), elements
    elif tensor.HasField("raw_data"):
        held, needed = len(tensor.raw_data), _bytes_needed(tensor)
    elif kind in _INT32_TYPES:
        # Types of less than a byte are packed, several to an entry.
        bits = ir.DataType(kind).bitwidth
        held, needed = len(tensor.int32_data), -(-elements * bits // 8) if bits < 8 else elements
    elif kind in (TensorProto.FLOAT, TensorProto.COMPLEX64):
        held, needed = len(tensor.float_data), elements * (2 if kind == TensorProto.COMPLEX64 else 1)
    elif kind in (TensorProto.DOUBLE, TensorProto.COMPLEX128):
        held, needed = len(tensor.double_data), elements * (2 if kind == TensorProto.COMPLEX128 else 1)
    elif kind == TensorProto.INT64:
        held, needed = len(tensor.int64_data), elements
    else:
        held, needed = len(tensor.uint64_data), elements
    if held != needed:
        raise InvalidInputError(
            f"The tensor {tensor.name!r} of shape {list(tensor.dims)} holds {held} values or bytes, expected {needed}",
            remedy=_REMEDY,
        )


def _check_external(tensor: TensorProto, root: Path, files: dict[str, tuple[Path, int]]) -> None:
    """Inside the folder, a regular file, and long enough."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"The external data of the tensor {tensor.name!r}"
    if tensor.data_type == TensorProto.STRING:
        raise InvalidInputError(f"{what} holds strings, which ONNX does not allow", remedy=_REMEDY)
    if not location:
        raise InvalidInputError(f"{what} does not name a file", remedy=_REMEDY)
    if location not in files:
        if len(files) == _MAX_FILES:
            raise InvalidInputError(
                f"The weights lie in more than {_MAX_FILES} files", remedy="Save the model with one file of weights."
            )
        found = find_inside(root, location)
        if found is None:
            raise InvalidInputError(
                f"{what} is missing: there is no file {location!r} in {str(root)!r}",
                remedy="Copy that file beside model.onnx too.",
            )
        information = found.stat()
        if information.st_nlink > 1:
            # ONNX and ONNX-IR refuse hard links later, on first use: a link may lead to a file outside.
            raise InvalidInputError(
                f"{location!r} in {str(root)!r} has more than one hard link", remedy="Replace it by a copy of the file."
            )
        files[location] = (found, information.st_size)
    offset, length = (_number(entries, key, what) for key in ("offset", "length"))
    needed = _bytes_needed(tensor)
    if length is not None and length != needed:
        raise InvalidInputError(f"{what} has {length} bytes, its shape and type need {needed}", remedy=_REMEDY)
    size = files[location][1]
    if (offset or 0) + needed > size:
        raise InvalidInputError(
            f"{what} ends at byte {(offset or 0) + needed} of {location!r}, which has {size} bytes", remedy=_REMEDY
        )


def _number(entries: dict[str, str], key: str, what: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidInputError(f"{what} has the {key} {text[:40]!r}, expected a number", remedy=_REMEDY)
    return int(text)
