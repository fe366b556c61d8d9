# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report as a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["write_report"]


def write_report(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    raise NotImplementedError
