# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of messages: what is read from a reply, and what a request carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.config import GenerationConfig
from genai_iface.conformance.wire._connection import Connection, HarnessError
from genai_iface.conformance.wire._tensors import decode_tensor, encode_tensor
from genai_iface.errors import InvalidInputError

__all__ = ["fields_of", "need", "numbers_of", "plain", "tensor_of"]


def fields_of(config: GenerationConfig, /) -> dict[str, Any]:
    """The fields of a configuration that are not neutral."""
    neutral = GenerationConfig()
    names = [field.name for field in dataclasses.fields(config)]
    return {name: plain(getattr(config, name)) for name in names if getattr(config, name) != getattr(neutral, name)}


def plain(value: Any, /) -> Any:
    """A field's value as JSON has it: its keys are texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def need(message: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field of a reply.

    Raises:
        HarnessError: It is not there, or of another kind.
    """
    value = message.get(name)
    if not isinstance(value, kind):
        raise HarnessError(f"The harness's reply has no {name} that is a {kind.__name__}: {value!r}")
    return value


def numbers_of(value: ArrayLike, what: str) -> dict[str, Any]:
    """Integers of any type travel as int64, other numbers as float64, so that a harness knows one type of each."""
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    elif array.dtype.kind == "f":
        array = array.astype(np.float64)
    try:
        return encode_tensor(array)
    except TypeError as error:
        raise InvalidInputError(f"{what} holds no numbers: {error}", remedy="Give integers.") from error


def tensor_of(reply: Mapping[str, Any], name: str, connection: Connection) -> NDArray[Any]:
    """A tensor of a reply.

    Raises:
        HarnessError: There is none that can be read.
    """
    try:
        return decode_tensor(need(reply, name, dict), connection.folder)
    except ValueError as error:
        raise HarnessError(f"The harness's {name} cannot be read: {error}") from error
