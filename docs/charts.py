# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts charts and pictures into the pages as inline SVG, so that they take the page's colors in light and dark."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

# The way to the file is the one from the page, as in a link.
_CHARTS = re.compile(r"^<!-- charts: (\S+) -->$", re.MULTILINE)
_PICTURE = re.compile(r"^!\[([^]]*)\]\(((?:\.\./)*pictures/[\w-]+\.svg)\)$", re.MULTILINE)
_HEAD = re.compile(r"<!--.*?-->\s*|<style>.*?</style>\s*", re.DOTALL)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces the markers of charts, and the pictures of docs/pictures."""
    # The specification's pictures have a hook of their own.
    if page.file.src_uri.startswith("spec/"):
        return markdown
    folder = (Path(config.docs_dir) / page.file.src_uri).parent
    markdown = _PICTURE.sub(lambda match: _picture(folder / match[2], match[1]), markdown)
    if not _CHARTS.search(markdown):
        return markdown
    root = str(Path(config.config_file_path).parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    from benchmarks.plot import charts  # noqa: PLC0415 - the root is not on the path before

    return _CHARTS.sub(lambda match: f'<div class="charts">\n{charts(folder / match[1])}\n</div>', markdown)


def _picture(path: Path, words: str) -> str:
    # Its own style is for readers of the file alone.
    svg = _HEAD.sub("", path.read_text(encoding="utf-8")).strip()
    return f'<figure class="picture" aria-label="{words}">\n{svg}\n</figure>'
