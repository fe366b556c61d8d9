# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Help fits the terminal and shows defaults; what libraries warn of stays off the screen."""

from __future__ import annotations

import argparse
import logging
import re
import warnings

import pytest

from genai_iface.cli.main import build_parser, main

COMMANDS: dict[str, argparse.ArgumentParser] = next(
    action.choices for action in build_parser()._actions if action.dest == "command"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_wraps_and_shows_defaults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = COMMANDS[name]
    text = parser.format_help()
    description = " ".join((parser.description or "").split())
    # Of the examples below the options, one may be longer.
    lines = re.split(r"\n\w*\s*examples?\b", text)[0].splitlines()
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []
    assert description in " ".join(text.split())
    for action in parser._actions:
        if isinstance(action.default, (int, float, str)) and action.nargs != 0 and action.default != argparse.SUPPRESS:
            assert "default" in (parser.formatter_class("x")._get_help_string(action) or ""), action.option_strings


def test_an_example_is_broken_between_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = COMMANDS["bench"].format_help()
    assert "--prompt-tokens 512" in " ".join(text.split())
    assert not any(line.endswith("-") for line in text.splitlines())


@pytest.mark.parametrize(("words", "shown"), [([], False), (["--debug"], True)])
def test_warnings_of_libraries_stay_off_the_screen(
    words: list[str], shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def list_nothing() -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn_explicit("old", DeprecationWarning, "/lib/foreign.py", 1)
            warnings.warn_explicit("cache copied", UserWarning, "/lib/genai_iface_ort/model.py", 1)
        logging.getLogger("foreign").warning("a remark")
        return []

    monkeypatch.setattr("genai_iface.cli.commands.devices.list_backends", list_nothing)
    seen = []
    before = lambda message, *_: seen.append(str(message))  # noqa: E731 - compared below
    monkeypatch.setattr(warnings, "showwarning", before)
    assert main([*words, "devices"]) == 0
    assert warnings.showwarning is before
    assert seen == (["old", "cache copied"] if shown else [])
    assert capsys.readouterr().err == ("" if shown else "genai-iface: cache copied\n")
