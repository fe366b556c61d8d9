# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface generate``: what goes to stdout and stderr, and how it ends."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

import genai_iface.cli.generation
from genai_iface import BackendError, GenerationConfig, TextGenerationPipeline
from genai_iface.cli.main import main
from tests.fakes import ByteTokenizer, FakeModel, speaks

TEXT = "Grüße 🙂\nEnde"
Loads = list[dict[str, Any]]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Puts a fake model behind the command; lists how it was loaded."""
    calls: Loads = []

    def load(
        folder: Any, *, backend: Any, device: Any, options: Any, on_prefill: Any, **others: Any
    ) -> TextGenerationPipeline:
        model = FakeModel(258, script=speaks(TEXT))
        calls.append({"folder": folder, "backend": backend, "device": device, "options": options, "model": model})
        return TextGenerationPipeline.from_parts(model, ByteTokenizer(), on_prefill=on_prefill, prefill_chunk_size=8)

    monkeypatch.setattr(genai_iface.cli.generation, "TextGenerationPipeline", load)
    return calls


def as_terminal(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: True)


def on_step(loads: Loads, monkeypatch: pytest.MonkeyPatch, action: Callable[[int], None]) -> None:
    """Does something in every step of the model that the command will load."""
    inner = genai_iface.cli.generation.TextGenerationPipeline

    def load(*args: Any, **kwargs: Any) -> TextGenerationPipeline:
        pipeline = inner(*args, **kwargs)
        loads[-1]["model"]._on_step = action
        return pipeline

    monkeypatch.setattr(genai_iface.cli.generation, "TextGenerationPipeline", load)


def test_in_a_pipe_stdout_is_the_continuation_and_stderr_is_empty(
    loads: Loads, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "1"]) == 0
    assert capsys.readouterr() == (TEXT + "\n", "")
    assert loads[0]["folder"] is None
    assert loads[0]["backend"] == "numpy"
    assert loads[0]["model"].is_closed


def test_on_a_terminal_the_prompt_is_shown_dimmed_and_measurements_follow(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_terminal(monkeypatch, "stdout", "stderr")
    assert main(["generate", "123"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"\x1b[2m123\x1b[0m{TEXT}\n"
    last = captured.err.splitlines()[-1]
    assert "prompt: 3 tokens, " in last
    assert f"output: {len(TEXT.encode()) + 1} tokens, " in last


def test_a_long_prompt_shows_progress_on_a_terminal_only(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["generate", "1" * 20]) == 0
    assert capsys.readouterr().err == ""
    as_terminal(monkeypatch, "stderr")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["generate", "1" * 20]) == 0
    captured = capsys.readouterr()
    assert captured.out == TEXT + "\n"
    assert "loading the model" in captured.err
    assert re.search(r"reading the prompt: (8|16) of 20 tokens", captured.err)


def test_text_is_printed_as_it_comes(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    on_step(loads, monkeypatch, lambda step: seen.append(capsys.readouterr().out))
    main(["generate", "1"])
    assert seen[:5] == ["", "G", "r", "", "ü"]


def test_no_stream_prints_at_the_end(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    on_step(loads, monkeypatch, lambda step: seen.append(capsys.readouterr().out))
    main(["generate", "1", "--no-stream"])
    assert set(seen) == {""}
    assert capsys.readouterr().out == TEXT + "\n"


def test_json(loads: Loads, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "1", "--json", "--seed", "7", "--model", "folder"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    value = json.loads(line)
    assert value["text"] == TEXT
    assert value["token_ids"] == [*TEXT.encode(), 257]
    assert (value["prompt"], value["model"], value["seed"], value["finish_reason"]) == ("1", "folder", 7, "stop")
    assert value["perf_metrics"]["num_prompt_tokens"] == 1
    assert value["perf_metrics"]["decode_tokens_per_second"] > 0


def test_the_prompt_from_stdin(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("12\n\n"))
    main(["generate", "-", "--json"])
    assert json.loads(capsys.readouterr().out)["prompt"] == "12\n"


def test_where_the_model_runs(loads: Loads) -> None:
    options = ["--option", "threads=2", "--option", "level=all", "--option", "on=true"]
    main(["generate", "1", "--model", "m", "--backend", "b", "--device", "d", *options])
    assert {name: loads[0][name] for name in ("folder", "backend", "device", "options")} == {
        "folder": "m",
        "backend": "b",
        "device": "d",
        "options": {"threads": 2, "level": "all", "on": True},
    }


def test_every_generation_option_reaches_the_configuration(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[GenerationConfig] = []
    generate = TextGenerationPipeline.generate

    def spy(self: TextGenerationPipeline, prompt: Any, **arguments: Any) -> Any:
        fields = {name: value for name, value in arguments.items() if name not in ("on_chunk", "speculation")}
        configs.append(self.generation_config.replace(**fields))
        return generate(self, prompt, **arguments)

    monkeypatch.setattr(TextGenerationPipeline, "generate", spy)
    limits = ["--max-new-tokens", "5", "--stop", "a", "--stop", "b", "--repetition-penalty", "1.1"]
    draws = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--min-p", "0.1", "--seed", "4"]
    main(["generate", "1", *limits, *draws])
    main(["generate", "1"])
    assert configs == [
        GenerationConfig(
            max_new_tokens=5,
            temperature=0.5,
            top_k=3,
            top_p=0.9,
            min_p=0.1,
            repetition_penalty=1.1,
            seed=4,
            stop_strings=("a", "b"),
        ),
        GenerationConfig(max_new_tokens=None),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--chat"], "<user>1\n<assistant>"),
        (["--system", "S"], "<system>S\n<user>1\n<assistant>"),
    ],
)
def test_chat(
    loads: Loads,
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_terminal(monkeypatch, "stdout")
    assert main(["generate", "1", *arguments]) == 0
    assert loads[0]["model"].caches[0].rows[0][: len(expected)] == list(expected.encode())
    # An answer is not a continuation: the prompt is not shown.
    assert capsys.readouterr().out == TEXT + "\n"


# How it ends


@pytest.mark.parametrize("arguments", [[], ["--no-stream"]])
def test_ctrl_c_keeps_the_text(
    loads: Loads, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_step(loads, monkeypatch, lambda step: signal.raise_signal(signal.SIGINT) if step == 4 else None)
    before = signal.getsignal(signal.SIGINT)
    assert main(["generate", "1", *arguments]) == 130
    assert capsys.readouterr() == ("Grü\n", "")
    assert signal.getsignal(signal.SIGINT) is before
    assert loads[0]["model"].is_closed


def test_ctrl_c_with_json_prints_the_partial_result(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_step(loads, monkeypatch, lambda step: signal.raise_signal(signal.SIGINT) if step == 4 else None)
    assert main(["generate", "1", "--json"]) == 130
    value = json.loads(capsys.readouterr().out)
    assert (value["text"], value["finish_reason"]) == ("Grü", "cancelled")


def test_a_second_ctrl_c_interrupts_at_once(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(step: int) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    on_step(loads, monkeypatch, twice)
    before = signal.getsignal(signal.SIGINT)
    assert main(["generate", "1"]) == 130
    # The fourth step did not end.
    assert capsys.readouterr().out == "Gr\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "7"], "top_p=7.0 is not legal"),
        (["--temperature", "-1"], "temperature=-1.0 is not legal"),
        (["--option", "novalue"], "--option 'novalue' is not KEY=VALUE"),
    ],
)
def test_bad_input_is_one_line_and_2(
    loads: Loads, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "1", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"genai-iface: {message}")
    assert len(captured.err.splitlines()) == 1


def test_a_prompt_that_is_not_utf8(loads: Loads, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a\udcff"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_failed_run_is_1_and_keeps_what_was_printed(
    loads: Loads, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: int) -> None:
        if step == 4:
            raise BackendError("The runtime broke", remedy="Try another one.")

    on_step(loads, monkeypatch, fail)
    assert main(["generate", "1"]) == 1
    assert capsys.readouterr() == ("Gr\n", "genai-iface: The runtime broke. Try another one.\n")


@pytest.mark.parametrize(
    "arguments", [["--debug", "generate", "1", "--top-p", "7"], ["generate", "1", "--top-p", "7", "--debug"]]
)
def test_debug_shows_the_traceback(loads: Loads, arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="top_p"):
        main(arguments)


@pytest.mark.parametrize("arguments", [[], ["generate"], ["generate", "1", "--top-k", "x"], ["nothing"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_unknown_backend(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    assert main(["generate", "1", "--model", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
