# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The built site in a headless browser: it fits, has a dark form, passes axe, and its search finds the guide first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tools import check_browser
from tools.check_site import check as check_links

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "playwright"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed; pip install '.[dev]'")
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium is installed; apt-get install chromium")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return out


@pytest.fixture
def _axe() -> None:
    if not check_browser.AXE.is_file():
        pytest.skip(f"{check_browser.AXE} is missing; npm install --ignore-scripts --no-save axe-core@4.10.3")


@pytest.mark.usefixtures("_axe")
def test_no_page_has_a_fault(site: Path) -> None:
    faults, _ = check_links(site)
    assert faults == []
    assert list(check_browser.check(site)) == []


def test_the_search_finds_the_guide_first(site: Path) -> None:
    wanted = {
        "temperature": "sampling/",
        "how to install": "get-started/",
        "install": "get-started/",
    }
    found = check_browser.first_hits(site, list(wanted))
    assert {query: address.partition("#")[0] for query, address in found.items()} == wanted


def test_a_tap_on_a_cell_of_the_scoreboard_says_what_failed_first(site: Path) -> None:
    with check_browser.served(site) as root, check_browser.chromium() as browser:
        # A phone: touch, no pointer that could rest on a word.
        phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        tab = phone.new_page()
        tab.goto(f"{root}/reports/scoreboard/index.html")
        cells = tab.locator(".scoreboard td:has(details)")
        source = ROOT / "docs" / "reports" / "scoreboard.md"
        assert cells.count() == source.read_text(encoding="utf-8").count("<details>") > 0
        for at in range(cells.count()):
            words, clause = cells.nth(at).locator("summary"), cells.nth(at).locator("details a")
            assert not clause.is_visible()
            words.tap()
            assert clause.is_visible(), words.text_content()
            opened = cells.nth(at).locator("details").inner_text()
            # What the pointer's title says, with the clause's own check to follow.
            check, _, rest = str(words.get_attribute("title")).partition(" (")
            assert check in opened
            assert rest.partition("): ")[2] in " ".join(opened.split())
            box = cells.nth(at).locator("details").bounding_box()
            assert box["x"] >= 0, opened
            assert box["x"] + box["width"] <= 390, opened
            assert cells.nth(at).evaluate("e => parseFloat(getComputedStyle(e).fontSize)") >= 12
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, opened
            words.tap()
            assert not clause.is_visible()
        cells.first.locator("summary").tap()
        name = cells.first.locator("details a").text_content()
        cells.first.locator("details a").tap()
        tab.wait_for_url(f"**/conformance-checks/#{name}")
        assert tab.evaluate("name => document.getElementById(name) !== null", name)


@pytest.mark.usefixtures("_axe")
def test_the_check_itself_finds_faults(tmp_path: Path, site: Path) -> None:
    broken = """<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width"><title>t</title>
    </head><body><div class="md-content"><h1>Top</h1><h4>Too deep</h4><p style="color:#ccc;background:#fff">pale</p>
    <img src="plot.png" alt="a plot">
    <figure><svg width="10" height="10"><path fill="#123456" d="M0 0h9v9z"/></svg></figure>
    <figure><svg width="90" height="20" viewBox="0 0 90 20" fill="currentColor"><text y="9">words beyond its edge</text>
    </svg></figure><div style="overflow-x:auto;width:300px"><table style="width:900px">
    <tbody><tr><td>row</td><td>cell</td></tr></tbody></table></div>
    <div style="width:2000px">wide</div></div></body></html>"""
    (tmp_path / "index.html").write_text(broken, encoding="utf-8")
    (tmp_path / "plot.png").write_bytes(b"")
    record = tmp_path / "record.jsonl"
    faults = "\n".join(check_browser.check(tmp_path, record=record))
    # A second run says the same without looking, and looks at a page that changed.
    assert "\n".join(check_browser.check(tmp_path, record=record)) == faults
    assert len(record.read_text(encoding="utf-8").splitlines()) == 1
    for word in (
        "scrolls sideways by",
        "words of a drawing cut off",
        "scrolls away from its rows' names",
        "without a dark form: plot.png",
        "page's colors",
        "color-contrast",
        "heading-order",
    ):
        assert word in faults
    (tmp_path / "index.html").write_text(broken.replace("wide</div>", "</div>"), encoding="utf-8")
    assert list(check_browser.check(tmp_path, record=record))
    assert len(record.read_text(encoding="utf-8").splitlines()) == 2
