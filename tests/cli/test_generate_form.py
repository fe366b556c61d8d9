# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface generate --json-schema, --regex, --grammar``: output of a form that was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from genai_iface.cli.main import main

SCHEMA = json.dumps({"enum": ["one", "two"], "x-guidance": {"whitespace_flexible": False}})


def test_a_schema_as_text_or_as_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(SCHEMA)
    for source in (SCHEMA, str(file)):
        assert main(["generate", "The operator", "--json-schema", source]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out) in ("one", "two")
        assert err == ""


def test_a_regular_expression(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "The operator", "--regex", "[0-9]{3}-[a-c]{2}"]) == 0
    assert re.fullmatch("[0-9]{3}-[a-c]{2}\n", capsys.readouterr().out)


def test_a_grammar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "answer.lark"
    file.write_text('start: "yes" | "no"\n')
    assert main(["generate", "Is it?", "--grammar", str(file)]) == 0
    assert capsys.readouterr().out in ("yes\n", "no\n")


def test_an_output_that_was_cut_short_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "The operator", "--regex", "[0-9]{300}", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err == "The output is not complete; it ended by 'length'.\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json-schema", "missing.json"], "--json-schema 'missing.json' cannot be read"),
        (["--grammar", "missing.lark"], "--grammar 'missing.lark' cannot be read"),
        (["--json-schema", "{"], "json_schema='{' is not legal"),
        (["--regex", "a("], "regex is not legal"),
        (["--regex", "a", "--json-schema", "{}"], "json_schema and regex are both given"),
    ],
)
def test_what_is_not_legal_is_one_line_and_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "x", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
