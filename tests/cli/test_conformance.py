# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``conformance``: exit codes, the list, reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genai_iface.cli.main import main
from genai_iface.conformance import (
    all_checks,
)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tests.conformance.plain:PlainAdapter", "--level", "0"], 0),
        (["tests.conformance.plain:PlainAdapter", "--level", "0", "--only", "L0.backend.info"], 1),
        (["tests.conformance.plain:PlainAdapter", "--level", "9"], 2),
        (["tests.conformance.plain:PlainAdapter", "--dtype", "float16"], 2),
        (["tests.conformance.plain:PlainAdapter", "--only", "L0.no.such"], 2),
        (["tests.conformance.plain:PlainAdapter", "--tolerance-factor", "2"], 2),
        (["tests.conformance.plain:PlainAdapter", "--deviations", "absent.json"], 2),
        (["no_such_backend"], 2),
        ([], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", *arguments]) == code
    streams = capsys.readouterr()
    assert ("genai-iface: " in streams.err) == (code == 2)


def test_a_quick_run_gives_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "tests.conformance.plain:PlainAdapter", "--level", "0", "--quick"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("quick: ")
    quick = [item.id for item in all_checks() if not item.takes_long]
    assert 200 < len(quick) < len(all_checks())
    assert not any("walk" in name for name in quick)


def test_the_list_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [item.id for item in all_checks()]


@pytest.mark.slow
def test_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from genai_iface.conformance._report import SCHEMA

    assert main(["conformance", "tests.conformance.mutants:BROKEN", "--level", "2", "--report", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data)
    assert data["verdict"] == "does_not_reach"
    assert [item["id"] for item in data["checks"]] == [item.id for item in all_checks(level=2)]
    failed = [item["id"] for item in data["checks"] if item["status"] == "failed"]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in failed:
        assert f"FAILED {name}" in printed
        assert f"- `{name}`: " in markdown
        assert f'<tr class="failed"><td><code>{name}</code>' in page
    assert "max_error" in markdown
    assert sum(level["counts"]["failed"] for level in data["levels"]) == len(failed)
    data["verdict"] = "fine"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(data)
