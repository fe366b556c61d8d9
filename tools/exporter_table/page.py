# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The table as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tools.exporter_table.outcome import Outcome, Run

__all__ = ["page"]

_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# What Transformers' exporter makes of every decoder

"""


def page(versions: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """The page's text."""
    del versions
    counts = Counter(outcome.verdict for outcome in outcomes)
    return _HEAD + str(counts)


def cell(run: Run) -> str:
    """One runtime."""
    return str(run)
