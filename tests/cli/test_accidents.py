# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Full disks, full pipes and two at once: one line, exit code 1, nothing half-written; for every command."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from genai_iface import OutputError
from genai_iface.cli.main import build_parser, main
from genai_iface.conformance import run_checks
from genai_iface.transform._model_writer import new_folder
from tests.marks import slow_but
from tests.models import write_folder

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


@pytest.fixture(scope="module")
def concat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("accidents") / "concat", style="concat", layers=1)


def run(
    arguments: Sequence[str],
    *,
    stdout: int | None = subprocess.PIPE,
    stdin: str | None = None,
    largest_file: int | None = None,
    unbuffered: bool = False,
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, perhaps on a disk with room for so many bytes in a file."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-B", "-m", "genai_iface", *arguments]
    return subprocess.run(
        command,
        input=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=limit,
        # As for users, what is printed waits in a buffer, unless a test is about what happens without.
        env={**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""},
    )


def check_one_line(ended: subprocess.CompletedProcess[str], part: str) -> None:
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1, ended
    assert len(lines) == 1 and lines[0].startswith("genai-iface: ") and part in lines[0], ended


# What each command prints in little time; those that need torch list or explain something.
PRINTING: dict[str, Callable[[Path], list[str]]] = {
    "help": lambda folder: ["--help"],
    "version": lambda folder: ["--version"],
    "generate": lambda folder: ["generate", "A", "--max-new-tokens", "2"],
    "generate --no-stream": lambda folder: ["generate", "A", "--max-new-tokens", "2", "--no-stream"],
    "generate --json": lambda folder: ["generate", "A", "--max-new-tokens", "2", "--json"],
    "chat": lambda folder: ["chat", "--model", str(folder), "--max-new-tokens", "2"],
    "inspect": lambda folder: ["inspect", str(folder)],
    "inspect --json": lambda folder: ["inspect", str(folder), "--json"],
    "bench": lambda folder: ["bench", str(folder), "--prompt-tokens", "2", "--new-tokens", "2", "--repeats", "1"],
    "bench --json": lambda folder: [
        *("bench", str(folder), "--prompt-tokens", "2", "--new-tokens", "2", "--repeats", "1", "--json"),
    ],
    "verify": lambda folder: ["verify", str(folder), "--backend", "ort", "--steps", "2", "--prompt-tokens", "2"],
    "verify --json": lambda folder: [
        *("verify", str(folder), "--backend", "ort", "--steps", "2", "--prompt-tokens", "2", "--json"),
    ],
    "perplexity": lambda folder: ["perplexity", str(Path(__file__).parent / "__init__.py")],
    "perplexity --json": lambda folder: ["perplexity", str(Path(__file__).parent / "__init__.py"), "--json"],
    "conformance --list": lambda folder: ["conformance", "--list"],
    "conformance": lambda folder: ["conformance", "numpy", "--level", "0"],
    "devices": lambda folder: ["devices"],
    "devices --json": lambda folder: ["devices", "--json"],
    "build": lambda folder: ["build", "--help"],
    "fusion-report": lambda folder: ["fusion-report", "--list"],
}
WRITING: dict[str, Callable[[Path, Path], list[str]]] = {
    "convert": lambda folder, out: ["convert", str(folder), str(out), "--no-verify"],
    "quantize": lambda folder, out: ["quantize", str(folder), str(out), "--weights", "int8", "--block-size", "16"],
    "quantize --json": lambda folder, out: [
        *("quantize", str(folder), str(out), "--weights", "int8", "--block-size", "16", "--json"),
    ],
}


# Of each kind one command runs with the quick suite; .ci/run runs all of them with --slow.
QUICK = {"generate", "convert"}
printing = pytest.mark.parametrize("command", slow_but(QUICK, PRINTING))
writing = pytest.mark.parametrize("command", slow_but(QUICK, WRITING))


@needs_full
@printing
def test_standard_output_is_full(command: str, concat: Path) -> None:
    if command == "fusion-report":
        pytest.importorskip("onnxscript")
    with FULL.open("w") as full:
        ended = run(PRINTING[command](concat), stdout=full.fileno(), stdin="Hello\n" if command == "chat" else None)
    check_one_line(ended, "No space left on device")


def _help_of_all() -> list[list[str]]:
    choices = next(action.choices for action in build_parser()._actions if action.dest == "command")
    return [["--help"], ["--version"], *([name, "--help"] for name in choices or ())]


@needs_full
@pytest.mark.parametrize("unbuffered", [True, False])
def test_help_that_cannot_be_written(
    unbuffered: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse ignores an output that cannot be written, where it is written at once."""
    for words in _help_of_all():
        # As Python's own standard output with and without PYTHONUNBUFFERED, without a process for each.
        full = io.TextIOWrapper(FULL.open("wb", buffering=0 if unbuffered else -1), write_through=unbuffered)
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(words)
        monkeypatch.undo()
        said = capsys.readouterr().err
        assert ended.value.code == 1, words
        assert said == "genai-iface: The standard output cannot be written: No space left on device.\n", words
        full.close()


@needs_full
@pytest.mark.parametrize(
    "words",
    [["--help"], pytest.param(["devices"], marks=pytest.mark.slow), ["generate", "A", "--max-new-tokens", "2"]],
    ids=str,
)
def test_unbuffered_output_is_full(words: list[str]) -> None:
    with FULL.open("w") as full:
        check_one_line(run(words, stdout=full.fileno(), unbuffered=True), "No space left on device")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")
@pytest.mark.parametrize("words", ["--help", "--version", pytest.param("devices", marks=pytest.mark.slow)])
def test_standard_output_is_closed(words: str) -> None:
    shell = ["sh", "-c", f'exec "$0" -m genai_iface {words} >&-', sys.executable]
    ended = subprocess.run(shell, capture_output=True, text=True, timeout=120, check=False)
    check_one_line(ended, "it is closed")


@needs_full
@writing
def test_standard_output_is_full_when_the_folder_is_made(command: str, concat: Path, tmp_path: Path) -> None:
    with FULL.open("w") as full:
        ended = run(WRITING[command](concat, tmp_path / "out"), stdout=full.fileno())
    check_one_line(ended, "No space left on device")
    # The folder itself is whole.
    assert main(["inspect", str(tmp_path / "out")]) == 0


@needs_full
def test_both_outputs_are_full() -> None:
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "genai_iface", "devices"], stdout=full, stderr=full, timeout=120, check=False
        )
    assert ended.returncode == 1


@writing
@pytest.mark.parametrize("room", [pytest.param(0, marks=pytest.mark.slow), 3000])
def test_no_room_for_the_folder(command: str, room: int, concat: Path, tmp_path: Path) -> None:
    ended = run(WRITING[command](concat, tmp_path / "out"), largest_file=room)
    check_one_line(ended, "cannot be written")
    assert list(tmp_path.iterdir()) == []


@writing
def test_a_place_that_cannot_be_written(command: str, concat: Path) -> None:
    check_one_line(run(WRITING[command](concat, Path("/proc/nothing/out"))), "cannot be made")


def test_no_room_for_a_conversation(concat: Path, tmp_path: Path) -> None:
    place = tmp_path / "talk.json"
    place.write_text("old")
    command = ["chat", "--model", str(concat), "--max-new-tokens", "2"]
    ended = run(command, stdin=f"Hello\n/save {place}\n", largest_file=4)
    assert "cannot be written" in ended.stderr and "Traceback" not in ended.stderr, ended
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("talk.json", "old")]


@pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null", "FILE/below"])
def test_a_report_has_no_place(place: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("x")
    started = time.monotonic()
    ended = run(["conformance", "numpy", "--report", place.replace("FILE", str(tmp_path / "FILE"))])
    check_one_line(ended, "A report cannot be written")
    # Level 4 takes minutes.
    assert ended.stdout == "" and time.monotonic() - started < 60


def test_no_room_for_a_report(tmp_path: Path) -> None:
    ended = run(["conformance", "numpy", "--report", str(tmp_path)], largest_file=1000)
    check_one_line(ended, "A report cannot be written")
    assert ended.stdout == "" and list(tmp_path.iterdir()) == []


def test_a_report_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genai_iface.conformance import _report as report
    from genai_iface.conformance import load_adapter

    result = run_checks(load_adapter("numpy"), level=0)
    monkeypatch.setattr(report, "as_html", lambda data: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        report.write_report(result, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_into_one_folder(concat: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "genai_iface", *WRITING["convert"](concat, tmp_path / "out")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate(timeout=300), process.returncode) for process in both]
    assert all(len(errors.strip().splitlines()) == (code != 0) for (_, errors), code in ended), ended
    assert 0 in [code for _, code in ended], ended
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert run(["inspect", str(tmp_path / "out")]).returncode == 0


def test_the_second_of_two_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="another process has made it meanwhile"), new_folder(out) as second:
        (second / "model.onnx").write_text("second")
        with new_folder(out) as first:
            (first / "model.onnx").write_text("first")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "model.onnx").read_text() == "first"


@pytest.mark.parity
def test_no_room_for_what_is_built(tmp_path: Path) -> None:
    from tests.parity.checkpoints import make_checkpoint

    checkpoint = tmp_path / "checkpoint"
    make_checkpoint("llama", checkpoint)
    ended = run(["build", str(checkpoint), str(tmp_path / "out"), "--via", "export"], largest_file=3000)
    assert ended.returncode == 1 and "cannot be written" in ended.stderr.strip().splitlines()[-1], ended
    assert "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
