# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit with all its levels, and its command: whole runs, the list, reports, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genai_iface.cli.main import main
from genai_iface.conformance import (
    all_checks,
    load_adapter,
    parametrize_checks,
    run_checks,
)
from genai_iface.conformance._coverage import UNTESTABLE, checks_by_contract
from tests.conformance.plain_pipeline import PlainStack
from tools.spec.clauses import methods

NUMPY = load_adapter("numpy")


def test_there_are_many_checks_with_public_ids() -> None:
    ids = [item.id for item in all_checks()]
    assert len(ids) == len(set(ids)) >= 80
    assert all(item.title for item in all_checks())
    assert {item.level for item in all_checks()} == {0, 1, 2, 3, 4}


def test_every_contract_of_the_protocols_has_a_check_or_a_reason() -> None:
    contracts = {f"{name}.{number}" for name, m in methods().items() for number in range(1, len(m.contract) + 1)}
    checked = checks_by_contract().keys()
    assert not checked & UNTESTABLE.keys()
    assert UNTESTABLE.keys() <= contracts
    assert contracts <= checked | UNTESTABLE.keys()


@parametrize_checks(PlainStack(), level=4)
def test_the_pytest_entry(run: Any) -> None:
    run()


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


def test_the_list_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [item.id for item in all_checks()]


def test_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from genai_iface.conformance._report import SCHEMA

    assert main(["conformance", "tests.conformance.mutants:BROKEN", "--level", "2", "--report", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data)
    assert data["verdict"] == "not_reached"
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


def test_the_numpy_backend_reaches_level_4() -> None:
    run = run_checks(load_adapter("tests.conformance.adapters:NumpyOperators"))
    assert [item.check.id for item in run.outcomes if item.status not in ("passed", "not_applicable")] == []
    assert [item.verdict for item in run.levels] == ["reached"] * 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_numpy_backend_in_half_precision(dtype: str) -> None:
    run = run_checks(NUMPY, dtype=dtype)
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "reached"


def test_a_stack_with_its_own_loop_and_no_runtime_reaches_level_4() -> None:
    run = run_checks(PlainStack())
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "reached"


def test_onnx_runtime_reaches_level_4() -> None:
    pytest.importorskip("onnxruntime")
    run = run_checks(load_adapter("tests.conformance.adapters:OrtOperators"))
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "reached"
