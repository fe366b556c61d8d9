# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a parser finds in a text: content, reasoning, calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["NO_JSON", "Call", "Content", "Found", "Reasoning", "call_of", "parsed"]

NO_JSON = object()
"""Stands for a text that is no JSON."""


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call of a function; the arguments are the JSON of an object."""

    name: str
    arguments: str


Found: TypeAlias = Content | Reasoning | Call
"""One thing that a parser has found."""


def call_of(name: Any, arguments: Any) -> Call | None:
    """A call, or None if what there is makes none.

    Args:
        name: The name of the function.
        arguments: An object, or its JSON; None for no arguments.
    """
    if isinstance(arguments, str):
        arguments = parsed(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    return Call(name.strip(), json.dumps(arguments, ensure_ascii=False))


def parsed(text: str) -> Any:
    """What a JSON text says; a text that is no JSON gives ``NO_JSON``."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NO_JSON


def _refuse(name: str) -> None:
    raise ValueError(name)
