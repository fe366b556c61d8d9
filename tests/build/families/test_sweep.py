# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The sweep over every decoder: rows survive, a crash is a row, and the page says what became of each type."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tools.sweep_decoders.page import page
from tools.sweep_decoders.runner import Limits, run_cases
from tools.sweep_decoders.store import append_row, read_rows


def row(name: str, **single: Any) -> dict[str, Any]:
    half = {"verified": False, "problem": "", "crashed": False, "method": "", "difference": {}, "lowered": {}, **single}
    return {
        "name": name,
        "model_type": name,
        "kind": "decoder",
        "network": "",
        "float32": half,
        "float16": None,
        "int8": None,
        "seconds": 1.0,
        "code": "abc",
        "versions": {"torch": "2"},
    }


def test_the_last_row_of_a_name_counts_and_a_cut_line_does_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert read_rows(file) == {}
    append_row(file, row("a", problem="first"))
    append_row(file, row("a", problem="second"))
    append_row(file, row("b"))
    with file.open("a") as stream:
        stream.write('{"name": "c", "kind"')
    assert [found["name"] for found in read_rows(file).values()] == ["a", "b"]
    assert read_rows(file)["a"]["float32"]["problem"] == "second"


def test_the_page_counts_and_gives_reasons() -> None:
    lowered = {"group-query-attention": "applied (2 layers)"}
    good = row("llama", verified=True, method="export", difference={"numpy": 1e-6, "ort": 2e-6}, lowered=lowered)
    good["int8"] = {"problem": "", "difference": {"numpy": 1e-2, "ort": 2e-2}, "equal_tokens": {}, "steps": 99}
    problem = "No method leads from 'checkpoint' to a standard model:\n  export: a_b. Nothing was written."
    text = page([good, row("odd", problem=problem), row("gone", problem="ended by SIGSEGV", crashed=True)])
    assert "| decoders of keys and values | 1 of 3 | 1 | 1 |" in text
    assert "| llama | export | 1e-06 | 2e-06 | yes | not run | 1e-02 / 2e-02 |" in text
    assert "- odd: export: a\\_b." in text
    assert "- gone: (crash) ended by SIGSEGV" in text
    assert "- 3 by the code of abc: torch 2." in text


def test_the_page_says_what_the_rows_took() -> None:
    timed, old = [row(name) | {"seconds": seconds} for name, seconds in (("a", 100.0), ("b", 260.0))], row("c")
    old["seconds"] = None
    text = page([*timed, old])
    assert "2 rows took 6 minutes of processor time in sum" in text
    assert "1 do not say what they took." in text


@pytest.mark.parity
def test_a_crash_is_a_row_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.sweep_decoders import case

    monkeypatch.setattr(case, "sweep_case", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    file = tmp_path / "rows.jsonl"
    run_cases(["llama", "gpt2"], file, code="x", versions={}, limits=Limits(60, 8), half_precision=False)
    rows = read_rows(file)
    assert list(rows) == ["llama", "gpt2"]
    assert all(found["float32"]["problem"] == "the process was ended by SIGKILL" for found in rows.values())


@pytest.mark.parity
def test_every_model_type_gets_a_configuration() -> None:
    """Whose lengths the prompts of a verification pass."""
    from transformers import AutoConfig

    from tools.sweep_decoders.tiny import cases, tiny_settings

    for name in ("llama4_text", "mistral", "gpt_neo", "gemma3", "gemma4_assistant"):
        family = cases()[name]
        text = AutoConfig.for_model(family.model_type, **tiny_settings(family)).get_text_config()
        lengths = ("sliding_window", "attention_chunk_size", "floor_scale", "window_size")
        assert all((getattr(text, length, None) or 0) < 16 for length in lengths), name
        assert text.vocab_size < 1000


@pytest.mark.parity
def test_a_class_that_takes_a_part_only_is_no_crash(tmp_path: Path) -> None:
    """Transformers gives MusicGen's decoder the configuration of the whole; any other AttributeError is a fault."""
    from tools.sweep_decoders import checkpoints
    from tools.sweep_decoders.tiny import cases

    with pytest.raises(checkpoints.NotMadeError, match=r"MusicgenForCausalLM, which .* takes MusicgenDecoderConfig"):
        checkpoints.made(cases()["musicgen"], tmp_path / "checkpoint")

    def broken(*_: object) -> None:
        raise AttributeError("no sizes")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(AttributeError, match="no sizes"):
        patch.setattr(checkpoints, "make_checkpoint", broken)
        checkpoints.made(cases()["llama"], tmp_path / "other")
