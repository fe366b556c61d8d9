# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The check of the built site notices what it is there for. (.ci/run applies it to the real site.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_site import check

GOOD = '<body><h1 id="top">Top</h1><a href="sub/">sub</a><a href="sub/#deep">deep</a><a href="#top">up</a></body>'


def site(tmp_path: Path, extra: str = "", css: str = "") -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(GOOD.replace("</body>", f"{extra}</body>"), encoding="utf-8")
    (tmp_path / "sub" / "index.html").write_text('<p id="deep"><a href="../">home</a></p>', encoding="utf-8")
    (tmp_path / "style.css").write_text(css, encoding="utf-8")
    return tmp_path


def test_a_good_site_has_no_faults(tmp_path: Path) -> None:
    faults, external = check(
        site(tmp_path, '<a href="https://onnx.ai">ONNX</a><link rel="canonical" href="https://x">')
    )
    assert faults == []
    assert external == ["https://onnx.ai"]


@pytest.mark.parametrize(
    ("extra", "css", "fault"),
    [
        ('<a href="gone/">x</a>', "", "gone/ leads nowhere"),
        ('<a href="../secret.html">x</a>', "", "../secret.html leads nowhere"),
        ('<a href="sub/#gone">x</a>', "", "no anchor 'gone'"),
        ('<a href="#gone">x</a>', "", "no anchor 'gone'"),
        ('<img src="gone.png">', "", "gone.png leads nowhere"),
        ('<script src="https://cdn.example/x.js"></script>', "", "loads https://cdn.example/x.js"),
        ('<img src="//cdn.example/x.png">', "", "loads //cdn.example/x.png"),
        ('<img srcset="style.css 1x, https://cdn.example/2.png 2x">', "", "loads https://cdn.example/2.png"),
        ('<link rel="stylesheet" href="https://cdn.example/x.css">', "", "loads https://cdn.example/x.css"),
        ('<link rel="preconnect" href="https://cdn.example">', "", "loads https://cdn.example"),
        ('<style>@import "https://cdn.example/x.css";</style>', "", "loads https://cdn.example/x.css"),
        ('<p style="background: url(https://cdn.example/x.png)">x</p>', "", "loads https://cdn.example/x.png"),
        ('<a data-md-component="source" href="#top">x</a>', "", "api.github.com"),
        ('<pre class="mermaid">graph</pre>', "", "mermaid"),
        ("", "@font-face { src: url('https://cdn.example/x.woff2') }", "loads https://cdn.example/x.woff2"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, extra: str, css: str, fault: str) -> None:
    faults, _ = check(site(tmp_path, extra, css))
    assert len(faults) == 1
    assert fault in faults[0]


def test_an_empty_folder_is_no_site(tmp_path: Path) -> None:
    assert check(tmp_path)[0] == [f"There are no pages in {tmp_path}"]
