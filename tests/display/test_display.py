# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a console and a notebook show of the things that one holds in one's hands."""

from __future__ import annotations

import gc
from html.parser import HTMLParser
from pathlib import Path

import pytest

from genai_iface import TextGenerationPipeline, load_model
from genai_iface.display import as_html, in_bytes
from tests.marks import BACKENDS
from tests.models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


class _Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_and_a_cache(folder: Path, backend: str) -> None:
    model = load_model(folder, backend=backend)
    cache = model.create_cache(batch_size=2, capacity=40)
    model.forward([[1, 2, 3], [4, 5, 6]], cache, counts=[3, 1])
    assert f"device {model.device.identifier}" in repr(model)
    assert f"vocabulary {model.spec.vocab_size}" in repr(model)
    assert "state loaded" in repr(model)
    assert "lengths [3, 1]" in repr(cache)
    assert "capacity 40 (8% used)" in repr(cache)
    assert in_bytes(cache.nbytes) in repr(cache)
    assert cache.update_mode in repr(cache)
    # A debugger shows closed objects too.
    cache.close()
    model.close()
    assert "memory 0 bytes" in repr(cache)
    assert "state closed" in repr(model)


def test_a_pipeline_its_tokenizer_and_its_result(folder: Path) -> None:
    with TextGenerationPipeline(folder) as pipe:
        assert "running calls 0, state open" in repr(pipe)
        assert f"vocabulary {pipe.tokenizer.vocab_size}" in repr(pipe.tokenizer)
        result = pipe.generate(["a", "b"], max_new_tokens=3)
        assert repr(result).startswith("<GenerationResult: text 0 ")
        assert "tokens 3, 3, finish length, length" in repr(result)
        for shown in (pipe, pipe.model, pipe.model.spec, pipe.tokenizer, result):
            assert len(repr(shown)) < 800
            page = _Cells(shown._repr_html_())
            assert page.open == []
            assert type(shown).__name__ in page.cells
    assert "state closed" in repr(pipe)


def test_what_a_model_says_is_no_markup() -> None:
    page = as_html("Result", {"text": "<script>alert(1)</script>"})
    assert "<script" not in page
    assert "<script>alert(1)</script>" in _Cells(page).cells


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")]
)
def test_bytes(count: int, text: str) -> None:
    assert in_bytes(count) == text


def test_a_stream_prints_itself_as_it_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TextGenerationPipeline(folder) as pipe:
        whole = pipe.generate("a", max_new_tokens=5).text
        stream = pipe.stream("a", max_new_tokens=5)
        first = next(stream)
        # What was taken is not shown again.
        stream._ipython_display_()
        assert first.text + capsys.readouterr().out == whole + "\n"
        stream.close()
        stream.close()
        assert list(stream) == []


def test_a_dropped_stream_ends_its_call(folder: Path) -> None:
    with TextGenerationPipeline(folder) as pipe:
        stream = pipe.stream("a", max_new_tokens=5)
        next(stream)
        assert "running calls 1" in repr(pipe)
        del stream
        gc.collect()
        assert "running calls 0" in repr(pipe)
