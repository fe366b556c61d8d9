# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance pages of the documentation say what the kit is now."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from genai_iface.cli.main import main
from genai_iface.conformance import all_checks
from genai_iface.conformance._golden import manifest_digest
from genai_iface.conformance._report import SCHEMA, claim_in_words
from tools.conformance_pages.__main__ import checks_page, command, matrix_page, scoreboard_page

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = sorted((DOCS / "reports/conformance").glob("*/report.json"))
REMEDY = "run: python -m tools.conformance_pages"


def test_the_list_of_checks() -> None:
    assert (DOCS / "conformance-checks.md").read_text(encoding="utf-8") == checks_page(), REMEDY


def test_the_matrix_shows_the_reports() -> None:
    assert REPORTS
    assert (DOCS / "reports/conformance.md").read_text(encoding="utf-8") == matrix_page(), REMEDY


def test_the_scoreboard_shows_every_submission() -> None:
    page = (DOCS / "reports/scoreboard.md").read_text(encoding="utf-8")
    assert page == scoreboard_page(), REMEDY
    assert page.count("<tr><td") == len(REPORTS)
    # What is said by a colour is said in words, by a pointer and by a finger.
    for path in REPORTS:
        for item in json.loads(path.read_text(encoding="utf-8"))["levels"]:
            if item["counts"]["deviation"] or item["counts"]["failed"]:
                assert "<details><summary title=" in page


def test_the_table_of_mutants() -> None:
    from tests.conformance.loops.every import EVERY_MUTANT

    text = (DOCS / "reports/mutants.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [mutant.name for mutant in EVERY_MUTANT], REMEDY
    assert "not killed" not in text


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_committed_reports(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    data = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(data)
    # A report stands with the kit that made it; the page says what today's kit has more. Ids are never renamed.
    ids = {item.id for item in all_checks() if data["profile"] in item.profiles}
    assert {item["id"] for item in data["checks"]} <= ids
    if path.parent.name == "numpy-float32":
        assert data["golden_sha256"] == manifest_digest(), f"{REMEDY} --run numpy"
        assert {item["id"] for item in data["checks"]} == ids, f"{REMEDY} --run numpy"
    # Reports are published: no path of the machine that wrote them.
    assert "/home/" not in json.dumps(data)
    assert "/tmp/" not in json.dumps(data)


@pytest.mark.slow
def test_the_printed_command_gives_the_published_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command("numpy", "float32"))
    assert program == "genai-iface"
    assert main([*arguments, "--report", str(tmp_path)]) == 0, capsys.readouterr().out
    run = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    published = json.loads((DOCS / "reports/conformance/numpy-float32/report.json").read_text(encoding="utf-8"))
    assert [item["verdict"] for item in run["levels"]] == ["conforms"] * 5
    assert (run["levels"], claim_in_words(run)) == (published["levels"], claim_in_words(published))
