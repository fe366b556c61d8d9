# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts hold: they can't be bought by listing failures or declaring little, and are said in three words."""

from __future__ import annotations

import json
import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from genai_iface import Capability, InvalidInputError
from genai_iface.cli.main import main
from genai_iface.conformance import BackendAdapter, all_checks, as_json, read_deviations, run_checks, write_report
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import ConformanceFailure
from genai_iface.conformance._report import _as_item, claim_in_words, verdict_in_words
from genai_iface.conformance._runner import run_check
from genai_iface.conformance.deviations import Deviation
from genai_iface.conformance.registry import Check, check
from tests.conformance.plain import CAPABILITIES, PlainAdapter, PlainBackend, PlainModel
from tests.conformance.test_kit import crashes, fails, has_no_subject, made

LATER = (date.today() + timedelta(days=90)).isoformat()
NO_VERSION = PlainAdapter(PlainBackend(info={"runtime_version": ""}))


class RandomLogits(PlainModel):
    """A runtime that does not compute anything."""

    def forward(self, *args: Any, **kwargs: Any) -> np.ndarray:
        logits = super().forward(*args, **kwargs)
        return np.random.default_rng().standard_normal(logits.shape).astype(np.float32)


def entry(identifier: str, **fields: str) -> dict[str, str]:
    return {"id": identifier, "reason": "a bug", "link": "https://example.org/1", "expires": LATER} | fields


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(PlainAdapter())


@pytest.mark.parametrize("level", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_random_logits_reach_nothing_whatever_is_listed(level: int, tmp_path: Path) -> None:
    adapter = PlainAdapter(PlainBackend(RandomLogits), "random")
    bare = run_checks(adapter, level=level)
    failed = [item.check.id for item in bare.outcomes if item.status == "failed"]
    assert len(failed) > (45 if level == 2 else 100)
    file = tmp_path / "deviations.json"
    file.write_text(json.dumps([entry(name) for name in failed]))
    run = run_checks(adapter, level=level, deviations=read_deviations(file))
    verdicts = {item.level: item.verdict for item in run.levels}
    assert verdicts.pop(1) == "no_verdict"
    assert set(verdicts.values()) == {"does_not_reach"}
    assert verdict_in_words(as_json(run)) == f"does not reach level {level}"
    # Each of the levels with numbers in them fails by several core checks, not by one.
    for number in range(2, level + 1):
        assert sum(item.status == "failed" and item.check.level == number for item in run.outcomes) >= 5


def test_deviations(context: Context) -> None:
    known = Deviation("L2.made.up", "a bug", "https://example.org/1", date.max)
    outcome = run_check(made(fails), context, known)
    assert (outcome.status, outcome.link) == ("deviation", "https://example.org/1")
    assert run_check(made(crashes), context, known).status == "deviation"
    outcome = run_check(made(lambda context: None), context, known)
    assert outcome.status == "failed"
    assert "remove the entry" in outcome.message
    assert run_check(made(has_no_subject), context, known).status == "not_applicable"


def raises_lines(context: Context) -> None:
    raise RuntimeError("shapes differ:\n  (1, 2)\n  (2, 1)")


def shows_a_program(context: Context) -> None:
    raise ConformanceFailure("a walk fails", program="import numpy as np\nassert 1 == 2", seed=3)


def test_a_message_is_one_line_and_a_program_follows_it(context: Context) -> None:
    known = Deviation("L2.made.up", "a bug", "https://example.org/1", date.max)
    said = "RuntimeError: shapes differ: (1, 2) (2, 1)"
    assert run_check(made(raises_lines), context).message == said
    assert run_check(made(raises_lines), context, known).message == f"a bug [{said}]"
    program = "import numpy as np\nassert 1 == 2"
    assert run_check(made(shows_a_program), context).message == f"a walk fails\n{program}"
    assert run_check(made(shows_a_program), context, known).message == f"a bug [a walk fails]\n{program}"


def test_only_programs_are_shown_as_python() -> None:
    item = {"id": "L2.made.up", "numbers": {}, "link": "", "message": "RuntimeError: shapes differ: (1, 2)"}
    assert "```" not in _as_item(item)
    assert "```python\n    assert 1 == 2\n" in _as_item({**item, "message": "a walk fails\nassert 1 == 2"})


def test_an_expired_deviation_fails(context: Context) -> None:
    today = date.today()
    for day, status in ((today - timedelta(days=1), "failed"), (today, "deviation")):
        outcome = run_check(made(fails), context, Deviation("L2.made.up", "a bug", "https://example.org/1", day))
        assert outcome.status == status
        assert ("expired on" in outcome.message) == (status == "failed")


def test_core_checks_cannot_be_listed_away(context: Context) -> None:
    item = Check("L2.made.up", 2, "made up", frozenset(), 1, (), fails, core="The point of it.")
    outcome = run_check(item, context, Deviation("L2.made.up", "a bug", "https://example.org/1", date.max))
    assert outcome.status == "failed"
    assert "core check" in outcome.message and "The point of it." in outcome.message


def test_every_level_has_core_checks_with_reasons() -> None:
    core = [item for item in all_checks() if item.core]
    assert {item.level for item in core} == {0, 1, 2, 3, 4}
    assert all(item.core.endswith(".") for item in core)
    with pytest.raises(ValueError, match="profile"):
        check("L2.made.up", profiles=["other"])


@pytest.mark.parametrize(
    ("adapter", "listed", "words", "code"),
    [
        ("tests.conformance.plain:PlainAdapter", [], "conforms at level 0", 0),
        ("tests.conformance.test_verdicts:NO_VERSION", ["L0.backend.info"], "level 0 with 1 known deviation", 3),
        ("tests.conformance.test_verdicts:NO_VERSION", [], "does not reach level 0", 1),
        # The entry has outlived its bug.
        ("tests.conformance.plain:PlainAdapter", ["L0.backend.info"], "does not reach level 0", 1),
    ],
)
def test_the_three_words(
    adapter: str, listed: list[str], words: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deviations.json"
    file.write_text(json.dumps([entry(name) for name in listed]))
    command = ["conformance", adapter, "--level", "0", "--deviations", str(file), "--report", str(tmp_path / "out")]
    assert main(command) == code
    line = f"plain, float32: {words} (profile step, {len(CAPABILITIES)} of {len(Capability)} capabilities)"
    assert capsys.readouterr().out.splitlines()[-1] == line
    data = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert claim_in_words(data) == line
    for name in ("report.md", "report.html"):
        assert line in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out/badge.json").read_text(encoding="utf-8"))["message"] == words


class NamedAdapter(BackendAdapter):
    """An adapter whose constructor takes arguments."""

    def __init__(self, name: str, *, threads: int) -> None:
        super().__init__(name)
        self.threads = threads


def test_an_adapter_with_arguments_goes_to_another_process() -> None:
    run = run_checks(NamedAdapter("numpy", threads=2), level=2, only=["L2.save.other_process"])
    assert next(item.status for item in run.outcomes if item.status != "not_executed") == "passed"


def test_an_adapter_that_cannot_travel_is_told_so() -> None:
    adapter = NamedAdapter("numpy", threads=2)
    adapter.lock = threading.Lock()
    run = run_checks(adapter, level=2, only=["L2.save.other_process"])
    outcome = next(item for item in run.outcomes if item.status != "not_executed")
    assert outcome.status == "failed"
    assert "__reduce__" in outcome.message


def test_junit(tmp_path: Path) -> None:
    run = run_checks(NO_VERSION, level=1)
    write_report(run, tmp_path)
    suites = ElementTree.parse(tmp_path / "junit.xml").getroot().findall("testsuite")
    cases = [case for suite in suites for case in suite.findall("testcase")]
    assert [case.get("name") for case in cases] == [item.check.id for item in run.outcomes]
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["L0.backend.info"]
    assert [suite.get("failures") for suite in suites] == ["1", "0"]
    assert int(suites[1].get("skipped", "0")) == len(suites[1])


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "no json",
        json.dumps([entry("L0.backend.info", reason="")]),
        json.dumps([{"id": "L0.backend.info", "reason": "x", "expires": LATER}]),
        json.dumps([{"id": "L0.backend.info", "reason": "x", "link": "https://example.org/1"}]),
        json.dumps([entry("L0.backend.info", link="nowhere")]),
        json.dumps([entry("L0.backend.info", expires="soon")]),
        json.dumps([entry("L0.no.such_check")]),
        json.dumps([entry("L0.backend.info", status="passed")]),
        json.dumps([entry("L0.backend.info")] * 2),
        '["L0.backend.info"]',
    ],
)
def test_incomplete_deviations_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "deviations.json"
    file.write_text(content)
    with pytest.raises(InvalidInputError):
        read_deviations(file)


def test_deviations_of_one_dtype(tmp_path: Path) -> None:
    file = tmp_path / "deviations.json"
    file.write_text(json.dumps([entry("L0.backend.info") | {"dtypes": ["float16"]}]))
    assert not read_deviations(file)
    assert list(read_deviations(file, dtype="float16")) == ["L0.backend.info"]
