# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the clauses, their checks and the pictures into the pages of the specification."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str | None:
    """Renders the pages under spec/; others stay as they are."""
    if not page.file.src_uri.startswith("spec/"):
        return None
    root = str(Path(config.config_file_path).parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    from tools.spec.render import render_page  # noqa: PLC0415 - the root is not on the path before

    return render_page(page.file.src_uri, markdown)
