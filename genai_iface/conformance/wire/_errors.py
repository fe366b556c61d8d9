# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Errors on the wire: a code for each class of ``genai_iface.errors``, and the numbers that some of them carry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from genai_iface.errors import (
    BackendError,
    CacheOverflowError,
    CacheRewindError,
    GenAIError,
    InterfaceVersionError,
    InvalidInputError,
    UnsupportedCapabilityError,
    UnsupportedModelError,
)

__all__ = ["CODES", "as_error", "from_error"]

CODES: Mapping[str, type[GenAIError]] = MappingProxyType(
    {
        "invalid_input": InvalidInputError,
        "unsupported_model": UnsupportedModelError,
        "unsupported_capability": UnsupportedCapabilityError,
        "interface_version": InterfaceVersionError,
        "cache_overflow": CacheOverflowError,
        "cache_rewind": CacheRewindError,
        "backend": BackendError,
    }
)
"""By the code that a reply carries."""


def as_error(message: Mapping[str, Any], /) -> GenAIError:
    """The exception that a reply's error stands for.

    Raises:
        ValueError: The code is unknown, or a field is missing.
    """
    code, text, remedy = (str(message.get(name, "")) for name in ("code", "message", "remedy"))
    try:
        if code == "cache_overflow":
            return CacheOverflowError(message["row"], message["needed"], message["capacity"])
        if code == "cache_rewind":
            return CacheRewindError(message["row"], message["requested"], message["length"], text)
        if code == "unsupported_capability":
            return UnsupportedCapabilityError(text, capability=str(message.get("capability", "")), remedy=remedy)
        return CODES[code](text, remedy=remedy)
    except (KeyError, TypeError) as error:
        raise ValueError(f"an error with the code {code!r} lacks {error}, or there is no such code") from error


def from_error(error: GenAIError, /) -> dict[str, Any]:
    """The error of a reply, for harnesses in Python."""
    # The most derived class decides: some are subclasses of others.
    code = next((code for code, kind in CODES.items() if isinstance(error, kind)), "backend")
    message: dict[str, Any] = {"code": code, "message": error.what, "remedy": error.remedy}
    for name in ("row", "needed", "capacity", "requested", "length", "capability"):
        if hasattr(error, name):
            message[name] = getattr(error, name)
    return message
