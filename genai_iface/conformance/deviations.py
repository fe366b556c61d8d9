# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The list of known deviations: checks that a runtime is known to fail, each with a reason and a link.

A JSON list of objects {"id": "L2.reorder.more_rows", "reason": "...", "link": "https://...", "expires": "2027-06-30"};
an optional "dtypes" limits an entry to runs of these dtypes. A listed check that passes is a failure, and so is one
whose entry has expired: the list must not outlive the bug, nor the bug the list. Core checks cannot be listed away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from os import PathLike
from pathlib import Path

from genai_iface.conformance.registry import all_checks
from genai_iface.errors import InvalidInputError

__all__ = ["Deviation", "read_deviations"]

_FIELDS = {"id", "reason", "link", "expires", "dtypes"}
_LINK = re.compile(r"https?://\S+|[\w./-]+\.(md|html)(#\S*)?")
_REMEDY = 'Write a list of objects with "id", "reason", "link" and "expires".'


@dataclass(frozen=True, slots=True)
class Deviation:
    """One known deviation.

    Attributes:
        id: The id of the check that fails.
        reason: Why it fails.
        link: Where that is tracked.
        expires: The last day on which the entry counts.
    """

    id: str
    reason: str
    link: str
    expires: date

    def has_expired(self, today: date | None = None, /) -> bool:
        """Whether the entry counts no longer."""
        return (today or date.today()) > self.expires


def read_deviations(path: str | PathLike[str], /, *, dtype: str = "float32") -> Mapping[str, Deviation]:
    """Reads a list of deviations.

    Args:
        path: The JSON file.
        dtype: Of the run.

    Raises:
        InvalidInputError: The file is broken, or an entry lacks a field or names no check.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"The deviations {path} cannot be read: {error}", remedy=_REMEDY) from error
    if not isinstance(entries, list):
        raise InvalidInputError(f"The deviations {path} are not a list", remedy=_REMEDY)
    known = {item.id for item in all_checks()}
    found: dict[str, Deviation] = {}
    for entry in entries:
        deviation = _read(entry)
        if deviation.id not in known:
            raise InvalidInputError(f"There is no check {deviation.id!r}", remedy="List the ids with --list.")
        if dtype in entry.get("dtypes", [dtype]):
            if deviation.id in found:
                raise InvalidInputError(f"The deviation {deviation.id!r} is listed twice", remedy="Merge the entries.")
            found[deviation.id] = deviation
    return found


def _read(entry: object) -> Deviation:
    values = entry if isinstance(entry, dict) else {}
    texts = [values.get(name) for name in ("id", "reason", "link", "expires")]
    if not all(isinstance(text, str) and text for text in texts) or set(values) - _FIELDS:
        raise InvalidInputError(f"The deviation {entry!r} is not complete", remedy=_REMEDY)
    identifier, reason, link, expires = map(str, texts)
    if not _LINK.fullmatch(link):
        raise InvalidInputError(
            f"The link {link!r} of the deviation {identifier!r} leads nowhere",
            remedy="Give the address of an issue, https://..., or a page, .md or .html.",
        )
    try:
        day = date.fromisoformat(expires)
    except ValueError as error:
        raise InvalidInputError(
            f"The deviation {identifier!r} expires on {expires!r}, which is no date", remedy="Write 2027-06-30."
        ) from error
    return Deviation(identifier, reason, link, day)
