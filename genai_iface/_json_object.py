# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a JSON object that a stranger wrote: bounded in size and depth, and made of text that can be encoded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["MAX_CONFIG_BYTES", "parse_object"]

MAX_CONFIG_BYTES = 16 * 2**20
"""No configuration file may be larger."""

# What reads the values later walks them by recursion, and prints them.
_MAX_DEPTH = 64
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(content: bytes, /) -> dict[str, Any]:
    """The object that a text in UTF-8 holds.

    Args:
        content: At most ``MAX_CONFIG_BYTES``; the caller judges that before it reads more.

    Raises:
        ValueError: It is no JSON, no object, nested too deeply, or holds text that no encoding can write. The message
            is a clause about the content.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"it is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        values = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"it is no JSON in UTF-8: {error}") from error
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels") from error
    if not isinstance(values, dict):
        raise ValueError(f"it holds a JSON {type(values).__name__}, not an object")
    _check_depth(values)
    # The escape of half a character gives a text that cannot be encoded, printed or saved.
    if _SURROGATE_ESCAPE.search(content) is not None:
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds a lone surrogate, half of a character") from error
    return values


def _check_depth(values: dict[str, Any]) -> None:
    level: Iterable[Any] = [values]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
