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
    if not check_browser.AXE.is_file():
        pytest.skip(f"{check_browser.AXE} is missing; npm install --ignore-scripts --no-save axe-core@4.10.3")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return out


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
    faults = "\n".join(check_browser.check(tmp_path))
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
