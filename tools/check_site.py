# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a built site: internal links and anchors exist, and nothing is loaded from elsewhere.

    python tools/check_site.py SITE [--external]

External links are not followed; ``--external`` lists them.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser load something; <link> by its rel, <a> never.
_LOADS = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_LOADING_RELS = {
    "icon",
    "apple-touch-icon",
    "manifest",
    "modulepreload",
    "preconnect",
    "prefetch",
    "preload",
    "stylesheet",
}
_CSS_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


@dataclass
class Page:
    """What one HTML file refers to."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.page.ids.update(values[name] for name in ("id", "name") if name in values)
        if "style" in values:
            self.page.styles.append(values["style"])
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        if tag == "link" and set(values.get("rel", "").split()) & _LOADING_RELS:
            self.page.loads.append(values.get("href", ""))
        self.page.loads += _loads_of_the_theme(values)
        for name in _LOADS.get(tag, ()):
            for candidate in values.get(name, "").split(",") if name == "srcset" else [values.get(name, "")]:
                if candidate.strip():
                    self.page.loads.append(candidate.split()[0])

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.page.styles.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def _loads_of_the_theme(values: dict[str, str]) -> list[str]:
    """What the theme's scripts fetch for an element: the library for diagrams, the number of stars."""
    loads = []
    if "mermaid" in values.get("class", "").split():
        loads.append("https://unpkg.com/mermaid")
    if values.get("data-md-component") == "source":
        loads.append("https://api.github.com")
    return loads


def read(path: Path) -> Page:
    """The references of one file."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def check(site: Path) -> tuple[list[str], list[str]]:
    """Faults of a site, and the external links that it has.

    Args:
        site: The folder that holds index.html.
    """
    pages = {path: read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"There are no pages in {site}"], []
    faults: list[str] = []
    external = {link for page in pages.values() for link in page.links if not _is_internal(link)}
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        links = [link for link in page.links if _is_internal(link)]
        if name != "404.html":
            links += [load for load in page.loads if _is_internal(load)]
        faults += [f"{name}: {fault}" for link in links if (fault := _missing(site, path, link, pages))]
        elsewhere = [load for load in page.loads if not _is_internal(load) and urlsplit(load).scheme != "data"]
        elsewhere += [url for style in page.styles for url in _CSS_URL.findall(style)]
        faults += [f"{name} loads {url} from elsewhere" for url in elsewhere]
    return faults + _loads_of_styles_and_pictures(site), sorted(external)


def _is_internal(link: str) -> bool:
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def _loads_of_styles_and_pictures(site: Path) -> list[str]:
    faults: list[str] = []
    for path in sorted([*site.rglob("*.css"), *site.rglob("*.svg")]):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(site).as_posix()
        faults += [f"{name} loads {url} from elsewhere" for url in _CSS_URL.findall(text)]
        faults += [
            f"{name} loads {url} from elsewhere"
            for url in re.findall(r"""<(?:image|script|use)[^>]*?href=["'](https?://[^"']+)""", text)
        ]
    return faults


def _missing(site: Path, path: Path, link: str, pages: dict[Path, Page]) -> str:
    """What is wrong with an internal link, or nothing."""
    parts = urlsplit(link)
    target = path
    if parts.path:
        base = site if parts.path.startswith("/") else path.parent
        target = Path(*(base / unquote(parts.path).lstrip("/")).parts)
        target = target.resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_relative_to(site.resolve()) or not target.exists():
            return f"{link} leads nowhere"
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html":
        page = pages.get(target) or pages.get(site / target.relative_to(site.resolve())) or read(target)
        if anchor not in page.ids and not anchor.startswith("__"):
            return f"{link} has no anchor {anchor!r}"
    return ""


def main() -> int:
    """Prints the faults; 1 if there are any."""
    parser = argparse.ArgumentParser(
        description="Checks links of a built site, and that it loads nothing from elsewhere."
    )
    parser.add_argument("site", type=Path)
    parser.add_argument("--external", action="store_true", help="list the external links")
    arguments = parser.parse_args()
    faults, external = check(arguments.site)
    for line in [*faults, *(external if arguments.external else [])]:
        print(line)
    pages = sum(1 for _ in arguments.site.rglob("*.html"))
    print(f"{pages} pages, {len(external)} external links, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
