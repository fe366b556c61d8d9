# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``--chat-template``: a name, a file, or a template itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from genai_iface.cli.main import main
from tests.models import write_folder

TEMPLATE = "The operator {{ messages[-1].content }}"
FEW = ("--max-new-tokens", "4")


@pytest.fixture
def expected(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["generate", "The operator TensorScatter", *FEW]) == 0
    return capsys.readouterr().out


def test_a_template_or_a_file(expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(TEMPLATE)
    for given in (TEMPLATE, str(file)):
        assert main(["generate", "TensorScatter", "--chat-template", given, *FEW]) == 0
        assert capsys.readouterr().out == expected


def test_chat_takes_it_too(expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("TensorScatter\n"))
    assert main(["chat", "--chat-template", TEMPLATE, *FEW]) == 0
    assert capsys.readouterr().out == expected


def test_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "brief.jinja").write_text("{{ messages[0].content }}")
    arguments = ["--model", str(folder), *FEW]
    assert main(["generate", "hello", *arguments]) == 0
    plain = capsys.readouterr().out
    assert main(["generate", "hello", "--chat-template", "brief", *arguments]) == 0
    assert capsys.readouterr().out == plain
    assert main(["inspect", str(folder)]) == 0
    assert "chat templates brief, default" in capsys.readouterr().out
    assert main(["generate", "hello", "--chat-template", "breif", *arguments]) == 2
    assert "There is no chat template 'breif'" in capsys.readouterr().err


def test_a_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe")
    assert main(["generate", "x", "--chat-template", str(tmp_path / "mine.jinja"), *FEW]) == 2
    assert "cannot be read" in capsys.readouterr().err
