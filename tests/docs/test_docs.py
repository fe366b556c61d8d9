# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the texts say is true: every code block runs, and every page says what the code says."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import genai_iface
from genai_iface.cli.main import build_parser
from genai_iface.errors import BackendNotFoundError
from genai_iface.models import default_folder
from tests.conftest import PARITY_MODULES
from tests.docs.doc_pages import LANGUAGES, ROOT, RUN, Page, read_page, run_page

TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [read_page(path) for path in TEXTS if path.is_file()]


# What a newcomer reads first runs with the quick suite; .ci/run runs all other pages with --slow.
FIRST_PAGES = {"README.md", "docs/index.md"}
# What the kit writes of a run shows programs and messages of a runtime that failed: nothing in it is a page's own.
RESULTS = "docs/reports/conformance/"


def page_parameters() -> list[object]:
    found = []
    for page in PAGES:
        if page.runs and not page.name.startswith(RESULTS):
            marks = [pytest.mark.parity] if page.needs & set(PARITY_MODULES) else []
            if page.name not in FIRST_PAGES:
                marks.append(pytest.mark.slow)
            found.append(pytest.param(page, id=page.name, marks=marks))
    return found


@pytest.mark.parametrize("page", page_parameters())
def test_the_blocks_of_a_page_run(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = sorted(module for module in page.needs if find_spec(module) is None)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    shutil.copytree(default_folder(), tmp_path / "my-model")
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


def test_the_rfc_can_be_read_in_a_quarter_of_an_hour() -> None:
    text = (ROOT / "docs" / "rfc" / "0001-generative-interface.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == [
        "Summary",
        "Motivation",
        "Guide-level explanation",
        "Reference-level explanation",
        "Drawbacks",
        "Rationale and alternatives",
        "Prior art",
        "Unresolved questions",
        "Future possibilities",
        "Glossary",
    ]
    assert len(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split()) <= 1800


def test_troubleshooting_shows_what_a_missing_runtime_says(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- missing-runtime -->\n```text\n(.*?)\n```", page, re.DOTALL)
    assert shown
    for name in [name for name in sys.modules if name.partition(".")[0] in ("onnxruntime", "genai_iface_ort")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendNotFoundError) as caught:
        genai_iface.load_backend("ort")
    assert str(caught.value) == shown[1]


def test_troubleshooting_has_every_error() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    names = {name.partition(":")[0] for name in re.findall(r"^## (\w+)", page, re.MULTILINE)}
    assert set(genai_iface.errors.__all__) - {"GenAIError"} <= names


def test_the_command_line_reference_has_every_command_and_option() -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "docs" / "command_line.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = build_parser()
    page = module.render(parser)
    commands = next(action.choices for action in parser._actions if action.dest == "command")
    assert len(commands) >= 7
    for name, command in commands.items():
        section = page.partition(f"\n## genai-iface {name}\n")[2].partition("\n## ")[0]
        assert command.format_usage().split()[1] in section
        for action in command._get_optional_actions():
            if action.dest != "help" and action.help != argparse.SUPPRESS:
                assert f"`{action.option_strings[0]}" in section, (name, action.option_strings)


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {genai_iface.__version__}\n" in text


@pytest.mark.parametrize("path", [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in TEXTS])
def test_links_lead_somewhere_in_the_repository_too(path: Path) -> None:
    """The site's links are checked on the site; here, those of somebody who reads the sources."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    generated = {ROOT / "docs" / "reference" / "command-line.md"}
    missing = [
        link for link in links if not (target := (path.parent / link).resolve()).exists() and target not in generated
    ]
    assert missing == []
