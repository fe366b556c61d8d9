# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A function in a process of its own: what it gives, and how it may end instead."""

from __future__ import annotations

import faulthandler
import os
import time
from pathlib import Path
from typing import Any

import pytest

from genai_iface.build.matrix.apart import Limits, LostError, run_apart


def doubled(number: int) -> dict[str, Any]:
    print("a word")
    return {"doubled": 2 * number, "process": os.getpid()}


def failing() -> dict[str, Any]:
    raise KeyError("no such node")


def aborting() -> dict[str, Any]:
    faulthandler.disable()  # pytest's own would tell of it here
    os.abort()


def spinning() -> dict[str, Any]:
    while True:
        pass


def waiting() -> dict[str, Any]:
    time.sleep(60)
    return {}


def test_the_answer_comes_back_and_what_was_printed_does_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "one.log"
    found = run_apart(doubled, (21,), limits=Limits(), log=log)
    assert found["doubled"] == 42
    assert found["process"] != os.getpid()
    assert log.read_text() == "a word\n"
    assert capfd.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["one.log"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (failing, "KeyError: 'no such node'"),
        (aborting, "SIGABRT"),
        (waiting, "not done after"),
        pytest.param(spinning, "SIG", marks=pytest.mark.slow),
    ],
)
def test_what_gives_no_answer_says_how_it_ended(
    function: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One second of the processor, and of the clock no more than that for what does nothing.
    monkeypatch.setattr("genai_iface.build.matrix.apart._WAITS", 0.5 if function is waiting else 30)
    with pytest.raises(LostError, match=said):
        run_apart(function, (), limits=Limits(seconds=1), log=tmp_path / "one.log")
