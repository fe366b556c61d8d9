# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The bar of a notebook, with a kernel's side of it played by the test; test_notebook.py runs a real one."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from genai_iface import TextGenerationPipeline
from genai_iface.display import NotebookBar, notebook_bar, notebook_part, notebook_prefill
from genai_iface.transform.quantize import quantize_folder
from tests.models import write_folder


class _Shell:
    """What IPython's shell has that a bar needs: each picture by its identifier."""

    def __init__(self) -> None:
        self.kernel: object | None = object()
        self.display_pub = self
        self.pictures: dict[str, list[str]] = {}

    def publish(self, data: dict[str, str], *, transient: dict[str, str], update: bool) -> None:
        identifier = transient["display_id"]
        assert update == (identifier in self.pictures)
        self.pictures.setdefault(identifier, []).append(data["text/plain"])

    @property
    def last(self) -> list[str]:
        return [texts[-1] for texts in self.pictures.values()]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> _Shell:
    made = _Shell()
    module: Any = types.ModuleType("IPython")
    module.get_ipython = lambda: made
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setattr("genai_iface.display._notebook._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("genai_iface.display._notebook._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("genai_iface.display._notebook.notebook_bar.__kwdefaults__", {"patience": 0.0})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


def test_nothing_outside_a_notebook(shell: _Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.kernel = None  # IPython in a terminal
    assert notebook_bar() is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert notebook_bar() is None
    assert notebook_part("x") is None
    assert notebook_prefill() is None


def test_one_line_is_redrawn_and_its_end_is_always_drawn() -> None:
    drawn: list[tuple[str, str, bool]] = []
    bar = NotebookBar(lambda data, identifier, update: drawn.append((data["text/html"], identifier, update)))
    for done in range(1, 101):
        bar.show("a < b", done, 100)
    # All hundred came within a tenth of a second or so: a browser is not sent each of them.
    assert 2 <= len(drawn) < 50
    assert '<progress value="100" max="100">' in drawn[-1][0]
    assert "a &lt; b: 100 of 100" in drawn[-1][0]
    assert len({identifier for _, identifier, _ in drawn}) == 1
    assert [update for *_, update in drawn] == [False] + [True] * (len(drawn) - 1)


def test_short_work_shows_nothing() -> None:
    drawn: list[object] = []
    bar = NotebookBar(lambda *picture: drawn.append(picture), patience=60.0)
    bar.show("work", 1, 2)
    bar.show("work", 2, 2)
    bar.finish("done")
    assert drawn == []


def test_a_long_prompt_and_its_tokens(shell: _Shell, folder: Path) -> None:
    with TextGenerationPipeline(folder, prefill_chunk_size=4) as pipe:
        pipe.generate([5] * 11, max_new_tokens=3, ignore_eos=True)
    prefill, tokens = shell.pictures.values()
    assert prefill == [f"reading the prompt: tokens: {done} of 11" for done in (4, 8, 11)]
    # A chunk may bring several tokens: those of a character that was not whole before.
    assert tokens[-2:] == ["generating: tokens: 3 of 3", "generated 3 tokens"]


def test_each_prompt_has_its_line_and_a_short_one_has_none(shell: _Shell, folder: Path) -> None:
    with TextGenerationPipeline(folder, prefill_chunk_size=4) as pipe:
        for length in (9, 3, 8):
            list(pipe.stream([5] * length, max_new_tokens=1, ignore_eos=True))
    assert shell.last == ["reading the prompt: tokens: 9 of 9", "reading the prompt: tokens: 8 of 8"]


def test_who_shows_the_text_gets_no_bar(shell: _Shell, folder: Path) -> None:
    with TextGenerationPipeline(folder) as pipe:
        pipe.generate("a", max_new_tokens=2, streamer=lambda _: None)
        pipe.generate("a", max_new_tokens=2, on_chunk=lambda _: None)
    assert shell.pictures == {}


def test_quantize_shows_its_tensors(shell: _Shell, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "float", external_data=True)
    told: list[tuple[int, int]] = []
    quantize_folder(folder, tmp_path / "told", bits=8, progress=lambda done, total: told.append((done, total)))
    assert shell.pictures == {}
    quantize_folder(folder, tmp_path / "shown", bits=8)
    assert shell.last == [f"writing tensors: {told[-1][0]} of {told[-1][1]}"]


def test_a_conversation_prints_itself_as_it_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TextGenerationPipeline(folder) as pipe, pipe.chat(max_new_tokens=5) as chat:
        whole = chat.send("a")
        chat.reset()
        stream = chat.stream("a")
        stream._ipython_display_()
        assert capsys.readouterr().out == whole + "\n"
        assert chat.messages[-1]["content"] == whole
        chat.stream_again()._ipython_display_()
        assert capsys.readouterr().out == whole + "\n"
