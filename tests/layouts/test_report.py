# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The page on layouts has a row for each of them, and says what the tests say."""

from __future__ import annotations

from tests.layouts.corpus import LAYOUTS, REFUSED
from tools.layouts.__main__ import PAGE, kept_rows
from tools.layouts.exports import EXPORTS
from tools.layouts.peers import STACKS


def test_the_page_shows_every_layout() -> None:
    rows = kept_rows(list(STACKS))
    rows.pop("layout")  # the head of the table
    exports = [name for name in rows if name in {export.name for export in EXPORTS}]
    assert list(rows) == [*(item.name for item in LAYOUTS), *exports]
    ours = [list(STACKS).index(name) for name in ("ort", "numpy")]
    assert {cells[at] for cells in rows.values() for at in ours} == {"right"}
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| {item.name} | {item.maker} | " in text for item in REFUSED)
