# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the texts of the repository's root on the site, with their links turned to the site's pages."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_GUIDES_FIRST = {"get-started.md": 4, "sampling.md": 8, "generation.md": 4, "new-runtime.md": 4}
_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds one page per text."""
    root = Path(config.config_file_path).parent
    for source, page in _PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\[([^]]+)\]\(([^)#:]+)(#[^)]*)?\)", _link, text)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links from a page to those texts, which are right in the repository, to the site's pages.

    What a page is worth to a search is set here too: a search for a word of the trade should find the guide, not
    one of a hundred reports that have it in a table.
    """
    page.meta.setdefault("search", _search(page.file.src_uri))
    if page.file.src_uri.startswith("reports/conformance/"):
        # A runtime's words in brackets, and a link behind them, would be read as one reference.
        markdown = re.sub(r"\] \[(?=[^]]*\]\()", r"\\] [", markdown)
    up = "../" * page.file.src_uri.count("/")
    return re.sub(
        rf"\]\({re.escape('../' + up)}({'|'.join(map(re.escape, _PAGES))})(#[^)]*)?\)",
        lambda match: f"]({up}{_PAGES[match[1]]}{match[2] or ''})",
        markdown,
    )


def _search(uri: str) -> dict[str, object]:
    if uri.startswith("reports/") and uri != "reports/index.md":
        return {"exclude": True}
    if uri in ("changelog.md", "conformance-checks.md", "working-groups.md") or uri.startswith("reference/"):
        return {"boost": 0.2}
    if uri.startswith("spec/"):
        return {"boost": 0.5}
    return {"boost": _GUIDES_FIRST.get(uri, 1)}


def _link(match: re.Match[str]) -> str:
    """A relative link as the site needs it; the words alone where the site has no such page."""
    words, target, anchor = match[1], match[2], match[3] or ""
    if target in _PAGES:
        return f"[{words}]({_PAGES[target]}{anchor})"
    if target.startswith("docs/"):
        return f"[{words}]({target.removeprefix('docs/')}{anchor})"
    return words
