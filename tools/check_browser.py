# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at a built site in headless Chromium: what scrolls sideways, what is not made for the dark, what axe finds.

    npm install --ignore-scripts --no-save axe-core@4.10.3
    python -m tools.check_browser SITE [PAGE ...] [--record FILE] [--screenshots DIR]

Needs playwright and a Chromium, its own or the system's. Pages are served on this machine only. A whole site takes a
while: with ``--record`` each page's result is kept, and a later run looks at what is new or has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["AXE", "WIDTHS", "check", "chromium", "first_hits", "page_names", "served"]

AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (390, 1024, 1440)
SCHEMES = ("light", "dark")

# Of axe's rules those that a page's author decides; the rest is the theme's.
_RULES = ["color-contrast", "heading-order", "image-alt", "link-name", "page-has-heading-one", "svg-img-alt"]
_AXE = """rules => axe.run(
    document.querySelector('.md-content') || document, {runOnly: rules, resultTypes: ['violations']}
).then(found => found.violations.map(v => `${v.id}: ${v.nodes[0].target.join(' ')} (${v.nodes.length} of them) `
        + (v.nodes[0].any[0] ? v.nodes[0].any[0].message : '')))"""
# What may scroll by itself is not the page.
_SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Cells of a table that its own box cuts off without a scroll bar.
_CLIPPED = """() => [...document.querySelectorAll(
    '.md-content table, .md-content pre > code, .md-content svg'
)].filter(e => {
    if (!e.getClientRects().length || e.closest('details:not([open]), .md-clipboard, .md-icon, a, button'))
        return false;
    const box = e.getBoundingClientRect();
    for (let up = e; up && up !== document.body; up = up.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return false;
    return box.right > document.documentElement.clientWidth + 1;
}).map(e => e.tagName.toLowerCase() + ': ' + e.textContent.trim().slice(0, 40))"""
# Words of a drawing that its own edge cuts off.
_CUT_WORDS = """() => [...document.querySelectorAll('.md-content figure svg[viewBox] text')].filter(e => {
    if (!e.getClientRects().length) return false;
    const words = e.getBoundingClientRect(), drawing = e.ownerSVGElement.getBoundingClientRect();
    return words.right > drawing.right + 1 || words.left < drawing.left - 1;
}).map(e => e.textContent.trim().slice(0, 60))"""
# A table that scrolls, of which the names of its rows do not stay.
_ADRIFT = """() => [...document.querySelectorAll('.md-content table')].filter(e => {
    const cell = e.querySelector('tbody td:first-child');
    for (let box = e; cell && box && box.tagName !== 'ARTICLE'; box = box.parentElement)
        if (box.clientWidth && box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX === 'auto')
            return getComputedStyle(cell).position !== 'sticky' || cell.clientWidth > 0.6 * box.clientWidth;
    return false;
}).map(e => e.textContent.trim().slice(0, 40))"""
_IMAGES = """() => [...document.querySelectorAll('.md-content img')].map(e => e.getAttribute('src'))"""
_PLAIN = """() => [...document.querySelectorAll('.md-content figure svg')].filter(
    e => !/currentcolor|var\\(--/i.test(e.outerHTML)).map(e => e.outerHTML.slice(0, 60))"""


def main() -> int:
    """Prints the faults of a site; 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("pages", nargs="*", help="relative to the site; every page by default")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="write one PNG for each width and scheme")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep each page's result; do not look twice")
    arguments = parser.parse_args()
    count = 0
    names = arguments.pages or page_names(arguments.site)
    for fault in check(arguments.site, names, screenshots=arguments.screenshots, record=arguments.record):
        # A site takes minutes; what is known is said.
        print(fault, flush=True)
        count += 1
    print(f"{len(names)} pages, {count} faults", file=sys.stderr)
    return 1 if count else 0


def page_names(site: Path) -> list[str]:
    """The pages of a site, relative to it."""
    return [
        path.relative_to(site).as_posix()
        for path in sorted(site.rglob("*.html"))
        # Written for a vendor's own eyes, not with the site's theme.
        if path.name != "report.html"
    ]


def check(
    site: Path, pages: Sequence[str] = (), *, screenshots: Path | None = None, record: Path | None = None
) -> Iterator[str]:
    """The faults of a site's pages, as they are found.

    Args:
        site: The folder that holds index.html.
        pages: Those to look at; all of them by default.
        screenshots: A folder for pictures of the first screens.
        record: A file that keeps the result of each page, a line each; a page that it has, with the same content, is
            not looked at again.
    """
    around = _around(site)
    known = _recorded(record)
    with served(site) as root, chromium() as browser:
        tabs = {
            scheme: browser.new_context(color_scheme=scheme, service_workers="block").new_page() for scheme in SCHEMES
        }
        for name in pages or page_names(site):
            content = hashlib.sha256(around + (site / name).read_bytes()).hexdigest()
            if screenshots is not None or (name, content) not in known:
                faults = []
                for scheme, tab in tabs.items():
                    tab.goto(f"{root}/{name}")
                    found = (*_layout(tab, scheme == SCHEMES[0]), *_looks(tab, site / name))
                    faults += [f"{name}, {scheme}: {fault}" for fault in found]
                    if screenshots is not None:
                        _picture(tab, screenshots, f"{name.removesuffix('.html').replace('/', '_')}-{scheme}")
                known[name, content] = faults
                if record is not None:
                    with record.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps({"page": name, "content": content, "faults": faults}) + "\n")
            yield from known[name, content]


def _around(site: Path) -> bytes:
    """A digest of what shapes every page beside its own text: styles, scripts, drawings, axe and this check."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + AXE.read_bytes())
    for path in sorted(path for path in site.rglob("*") if path.suffix in (".css", ".js", ".svg")):
        digest.update(path.read_bytes())
    return digest.digest()


def _recorded(record: Path | None) -> dict[tuple[str, str], list[str]]:
    if record is None or not record.exists():
        return {}
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return {(line["page"], line["content"]): line["faults"] for line in lines}


def first_hits(site: Path, queries: Sequence[str]) -> dict[str, str]:
    """The address of what the site's own search shows first for each query, relative to the site.

    Args:
        site: The folder that holds index.html.
        queries: What a reader types.
    """
    found = {}
    with served(site) as root, chromium() as browser:
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(f"{root}/index.html")
        for query in queries:
            tab.fill("input[name=query]", "")
            tab.click("input[name=query]")
            tab.type("input[name=query]", query)
            # The results of one query replace those of another.
            tab.wait_for_timeout(1500)
            link = tab.locator(".md-search-result__link").first
            link.wait_for(state="attached", timeout=20_000)
            found[query] = str(link.get_attribute("href")).removeprefix(root).lstrip("/").partition("?")[0]
    return found


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serves a folder on a free port of this machine; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium: the system's if there is one, playwright's otherwise.

    Raises:
        ImportError: playwright is not installed.
        playwright.sync_api.Error: There is no Chromium.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - loads when it is needed

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        try:
            yield browser
        finally:
            browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the library
        """Says nothing."""


def _layout(tab: Any, is_first: bool) -> list[str]:
    """What does not fit. Colors do not change it, so one scheme is enough."""
    if not is_first:
        return []
    faults = []
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        # The theme's drawers move for a moment after a change of the width.
        if tab.evaluate(_SIDEWAYS) > 0:
            tab.wait_for_timeout(500)
        beyond = tab.evaluate(_SIDEWAYS)
        if beyond > 0:
            faults.append(f"scrolls sideways by {beyond} px at {width}")
        faults += [f"cut off at {width}: {what}" for what in tab.evaluate(_CLIPPED)]
        faults += [f"words of a drawing cut off at {width}: {what}" for what in tab.evaluate(_CUT_WORDS)]
        faults += [f"scrolls away from its rows' names at {width}: {what}" for what in tab.evaluate(_ADRIFT)]
    return faults


def _looks(tab: Any, page: Path) -> list[str]:
    faults = [f"image without a dark form: {source}" for source in tab.evaluate(_IMAGES) if _is_light(page, source)]
    faults += [f"drawing that does not take the page's colors: {what}" for what in tab.evaluate(_PLAIN)]
    tab.add_script_tag(path=str(AXE))
    return faults + [str(found) for found in tab.evaluate(_AXE, _RULES)]


def _is_light(page: Path, source: str) -> bool:
    if "#only-" in source:
        return False
    path = page.parent / source
    return path.suffix != ".svg" or "prefers-color-scheme" not in path.read_text(encoding="utf-8")


def _picture(tab: Any, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.screenshot(path=str(folder / f"{stem}-{width}.png"))


if __name__ == "__main__":
    sys.exit(main())
