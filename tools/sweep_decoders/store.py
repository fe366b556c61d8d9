# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the sweep on disk: one line of JSON for each run, the last one of a name counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append_row", "read_rows"]


def append_row(file: Path, row: Mapping[str, Any], /) -> None:
    """Adds a row; what was there stays."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_rows(file: Path, /) -> dict[str, dict[str, Any]]:
    """The last row of each name; a line that was cut off by the end of a run is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["name"]] = row
    return rows
