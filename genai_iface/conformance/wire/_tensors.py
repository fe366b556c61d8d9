# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors on the wire: base64 in the message, or a tensor of a safetensors file."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["decode_tensor", "encode_tensor"]

_DTYPES = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
_OF_SAFETENSORS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "F64": "float64"}
_MAX_HEADER = 2**24


def encode_tensor(array: ArrayLike, /) -> dict[str, Any]:
    """An array as a message has it: little-endian, in C order.

    Raises:
        TypeError: It holds no numbers.
    """
    found = np.asarray(array)
    if found.dtype.name not in _DTYPES:
        raise TypeError(f"an array of {found.dtype.name} has no form on the wire")
    little = np.ascontiguousarray(found).astype(found.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": found.dtype.name, "shape": list(found.shape), "data": data}


def decode_tensor(message: Mapping[str, Any], /, folder: Path | None = None) -> NDArray[Any]:
    """An array that the caller owns.

    Args:
        message: "dtype", "shape" and "data"; or "file" and "name" of a tensor in a safetensors file.
        folder: Where such files may be; None for nowhere.

    Raises:
        ValueError: The message is malformed, its data have another size, or the file is elsewhere.
    """
    try:
        if "file" in message:
            dtype, shape, data = _from_file(str(message["file"]), str(message["name"]), folder)
        else:
            dtype, shape = str(message["dtype"]), list(message["shape"])
            data = base64.b64decode(message["data"], validate=True)
        if dtype not in _DTYPES or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"a tensor of {dtype} with the shape {shape} is not legal")
        kind = np.dtype(dtype)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"a tensor is malformed: {error}") from error
    if len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"a tensor of {dtype} with the shape {shape} has {len(data)} bytes")
    little = kind.newbyteorder("<")
    return np.frombuffer(data, little).astype(kind, copy=True).reshape(shape)


def _from_file(file: str, name: str, folder: Path | None) -> tuple[str, list[Any], bytes]:
    if folder is None:
        raise ValueError("a tensor is in a file, and there is no folder for files")
    path = (folder / file).resolve()
    if folder.resolve() not in path.parents:
        raise ValueError(f"the tensor file {file!r} is not in the folder that the kit named")
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _MAX_HEADER:
                raise ValueError(f"the header of {file!r} has {size} bytes")
            entry = json.loads(stream.read(size))[name]
            begin, end = entry["data_offsets"]
            stream.seek(8 + size + begin)
            return _OF_SAFETENSORS[entry["dtype"]], entry["shape"], stream.read(end - begin)
    except (OSError, LookupError, json.JSONDecodeError) as error:
        raise ValueError(f"the tensor {name!r} cannot be read from {file!r}: {error}") from error
