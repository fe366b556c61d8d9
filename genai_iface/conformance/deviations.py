# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The list of known deviations: checks that a runtime is known to fail, each with a reason and a link.

A JSON list of objects {"id": "L2.rewind.per_row", "reason": "...", "link": "https://..."}; an optional
"dtypes" limits an entry to runs of these dtypes. A listed check that passes is a failure: the list must
not outlive the bug.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from genai_iface.conformance.registry import all_checks
from genai_iface.errors import InvalidInputError

__all__ = ["Deviation", "read_deviations"]

_FIELDS = {"id", "reason", "link", "dtypes"}


@dataclass(frozen=True, slots=True)
class Deviation:
    """One known deviation.

    Attributes:
        id: The id of the check that fails.
        reason: Why it fails.
        link: Where that is tracked.
    """

    id: str
    reason: str
    link: str


def read_deviations(path: str | PathLike[str], /, *, dtype: str = "float32") -> Mapping[str, Deviation]:
    """Reads a list of deviations.

    Args:
        path: The JSON file.
        dtype: Of the run.

    Raises:
        InvalidInputError: The file is broken, or an entry lacks a field or names no check.
    """
    remedy = 'Write a list of objects with "id", "reason" and "link".'
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"The deviations {path} cannot be read: {error}", remedy=remedy) from error
    if not isinstance(entries, list):
        raise InvalidInputError(f"The deviations {path} are not a list", remedy=remedy)
    known = {item.id for item in all_checks()}
    found: dict[str, Deviation] = {}
    for entry in entries:
        values = entry if isinstance(entry, dict) else {}
        texts = [values.get(name) for name in ("id", "reason", "link")]
        if not all(isinstance(text, str) and text for text in texts) or set(values) - _FIELDS:
            raise InvalidInputError(f"The deviation {entry!r} is not complete", remedy=remedy)
        if texts[0] not in known:
            raise InvalidInputError(f"There is no check {texts[0]!r}", remedy="List the ids with --list.")
        if dtype in values.get("dtypes", [dtype]):
            if texts[0] in found:
                raise InvalidInputError(f"The deviation {texts[0]!r} is listed twice", remedy="Merge the entries.")
            found[str(texts[0])] = Deviation(*map(str, texts))
    return found
