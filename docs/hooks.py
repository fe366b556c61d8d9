# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the texts of the repository's root on the site, with their links turned to the site's pages."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds one page per text."""
    root = Path(config.config_file_path).parent
    for source, page in _PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\[([^]]+)\]\(([^)#:]+)\)", _link, text)))
    return files


def _link(match: re.Match[str]) -> str:
    """A relative link as the site needs it; the words alone where the site has no such page."""
    words, target = match[1], match[2]
    if target in _PAGES:
        return f"[{words}]({_PAGES[target]})"
    if target.startswith("docs/"):
        return f"[{words}]({target.removeprefix('docs/')})"
    return words
