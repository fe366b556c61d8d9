# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the texts say is true: every code block runs, and every page says what the code says."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from genai_iface.models import default_folder
from tests.conftest import PARITY_MODULES
from tests.doc_pages import LANGUAGES, ROOT, RUN, Page, read_page, run_page

TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [read_page(path) for path in TEXTS if path.is_file()]

# The embedded model has no chat template; pages that chat with "my-model" need one.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def page_parameters() -> list[object]:
    found = []
    for page in PAGES:
        if page.runs:
            marks = [pytest.mark.parity] if page.needs & set(PARITY_MODULES) else []
            found.append(pytest.param(page, id=page.name, marks=[*marks, *([pytest.mark.slow] if page.slow else [])]))
    return found


@pytest.mark.parametrize("page", page_parameters())
def test_the_blocks_of_a_page_run(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = sorted(module for module in page.needs if find_spec(module) is None)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    shutil.copytree(default_folder(), tmp_path / "my-model")
    (tmp_path / "my-model" / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, capfd.readouterr)


@pytest.mark.parametrize(
    "reason",
    [
        pytest.param(block.not_run, id=f"{page.name}:{block.line}")
        for page in PAGES
        for block in page.blocks
        if block.not_run
    ],
)
def test_blocks_that_are_not_run_say_why(reason: str) -> None:
    assert reason
    pytest.skip(reason)


def test_no_block_escapes_by_its_language() -> None:
    bad = [
        f"{page.name}:{block.line}: {block.language!r}"
        for page in PAGES
        for block in page.blocks
        if block.language not in LANGUAGES
    ]
    assert bad == []
    assert sum(block.language in RUN for page in PAGES for block in page.blocks) > 30


def test_needless_reasons_are_removed() -> None:
    bad = [
        f"{page.name}:{block.line}"
        for page in PAGES
        for block in page.blocks
        if block.not_run and block.language not in RUN
    ]
    assert bad == []
