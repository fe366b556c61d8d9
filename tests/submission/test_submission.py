# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Submissions: what is written, and that a forged one is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError
from genai_iface.cli.main import main
from genai_iface.conformance import run_checks, write_report
from genai_iface.conformance.submission import check_submission, write_submission
from genai_iface.conformance.submission._check import SUBMISSION_SCHEMA
from tests.conformance.test_verdicts import NO_VERSION

pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a submission that does not reach level 1, by name."""
    folder = tmp_path_factory.mktemp("submission")
    write_report(run_checks(NO_VERSION, level=1, seed=3), folder)
    write_submission(folder, command="genai-iface conformance mine --level 1")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(original: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in original.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def forged(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the report as someone would who knows how a submission is made."""
    path = folder / "report.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data, indent=1) + "\n")
    for name in ("report.md", "report.html", "junit.xml", "badge.json"):
        (folder / name).unlink()
    submission = json.loads((folder / "submission.json").read_text())
    submission["report_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "submission.json").write_text(json.dumps(submission))


def failed(data: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in data["checks"] if item["status"] == "failed")


def test_a_submission_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_submission(folder) == []
    assert main(["conformance", "check-submission", str(folder)]) == 0
    assert "plain, float32: does not reach level 1" in capsys.readouterr().out
    data = json.loads((folder / "submission.json").read_text())
    assert data["seed"] == 3
    assert data["machine"]["cpus"] >= 1
    text = (folder / "submission.json").read_text()
    import platform

    assert not platform.node() or platform.node() not in text


def test_the_command_makes_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "submission.json").unlink()
    assert main(["conformance", "submit", str(folder)]) == 0
    assert "submission.json" in capsys.readouterr().err
    assert check_submission(folder) == []
    assert main(["conformance", "submit"]) == 2
    assert main(["conformance", "submit", str(folder / "absent")]) == 2


def passes(data: dict[str, Any]) -> None:
    failed(data).update(status="passed", message="")


def passes_and_counts(data: dict[str, Any]) -> None:
    passes(data)
    data["levels"][0]["counts"].update(failed=0, passed=data["levels"][0]["counts"]["passed"] + 1)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda data: data.update(verdict="conforms"), "the levels say does_not_reach"),
        (passes, "level 0: says"),
        (passes_and_counts, "level 0: says does_not_reach, its outcomes say conforms"),
        (lambda data: data["levels"][0].update(verdict="conforms"), "level 0: says conforms"),
        (lambda data: data["checks"].remove(failed(data)), "its outcome is missing"),
        (lambda data: failed(data).update(status="deviation", link=""), "a deviation without a link"),
        (lambda data: failed(data).update(status="not_applicable", message=""), "not applicable without a reason"),
        (lambda data: data["checks"].append(data["checks"][0]), "there twice"),
        (lambda data: failed(data).update(core="", title="another"), "are not those of the kit"),
        (lambda data: data["backend"]["capabilities"].remove("batch"), "number of declared capabilities"),
        (lambda data: data.update(seed=4), "says seed 4"),
        (lambda data: data.update(golden_sha256="0" * 64), "golden models were others"),
        (lambda data: data["kit"].update(sha256="0" * 64), "different kits"),
        (lambda data: data.update(verdict="fine"), "$.verdict"),
        (lambda data: data.pop("levels"), "'levels' is a required property"),
    ],
)
def test_a_forged_report_is_found_out(change: Callable[[dict[str, Any]], object], finding: str, folder: Path) -> None:
    forged(folder, change)
    faults = check_submission(folder)
    assert any(finding in fault for fault in faults), faults
    assert main(["conformance", "check-submission", str(folder)]) == 1


def test_a_changed_file_is_found_out(folder: Path) -> None:
    path = folder / "badge.json"
    path.write_text(path.read_text().replace("does not reach", "conforms at"))
    assert check_submission(folder) == ["badge.json is not what report.json gives"]
    path = folder / "report.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed":  3'))
    assert check_submission(folder)[0] == "report.json was changed after it was submitted"


def test_another_kit_is_named(folder: Path) -> None:
    for name in ("report.json", "submission.json"):
        data = json.loads((folder / name).read_text())
        data["kit"]["sha256"] = "0" * 64
        (folder / name).write_text(json.dumps(data))
    forged(folder, lambda data: None)
    assert any("another kit made it" in fault for fault in check_submission(folder))
    with pytest.raises(InvalidInputError, match="not made by this kit"):
        write_submission(folder)


@pytest.mark.parametrize("content", ["", "[]", "no json"])
def test_what_is_no_submission_is_refused(content: str, folder: Path) -> None:
    (folder / "submission.json").write_text(content)
    with pytest.raises(InvalidInputError):
        check_submission(folder)


def test_the_schema_is_one() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(json.loads(SUBMISSION_SCHEMA.read_text()))
