# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface chat`` with its messages piped in; where processes matter, in one of its own."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from genai_iface import TextGenerationPipeline
from genai_iface.cli.main import main
from tests.models import write_folder

COMMAND = [sys.executable, "-m", "genai_iface", "chat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("chat") / "model")


def chat(folder: Path, lines: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--model", str(folder), "--max-new-tokens", "4", *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )


@dataclass(frozen=True)
class Here:
    """The command in this process, which has its modules already."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def chat(self, lines: list[str], *arguments: str) -> tuple[int, str, str]:
        self.patch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", "--model", str(self.folder), "--max-new-tokens", "4", *arguments])
        printed = self.capture.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def here(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(folder, capsys, monkeypatch)


def test_a_conversation_through_a_pipe(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "conversation.json"
    lines = ["Hi", "/stats", "", "again", "/stats", f"/save {file}", "/reset", "/system brief", "Hi", "/again", "/exit"]
    done = chat(folder, [*lines, "never read"])
    assert (done.returncode, done.stderr) == (0, "")
    numbers = re.findall(r"prompt: (\d+) tokens, (\d+) of them reused; output: \d+ tokens", done.stdout)
    assert len(numbers) == 2
    assert numbers[0][1] == "0"
    assert int(numbers[1][1]) >= int(numbers[0][0])
    messages = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    with TextGenerationPipeline(folder) as pipe:
        assert messages[1]["content"] == pipe.generate(messages[:1], max_new_tokens=4).text


def test_history_shows_the_messages(here: Here) -> None:
    code, printed, _ = here.chat(["Hi", "/history", "/system", "/history"], "--system", "be brief")
    assert code == 0
    assert printed.count("system: be brief\nuser: Hi\nassistant: ") == 1
    assert printed.count("user: Hi\n") == 2


def test_in_a_pipe_an_error_ends_the_run(folder: Path) -> None:
    done = chat(folder, ["/nonsense", "Hi"])
    assert done.returncode == 2
    assert "is not a command" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("line", "message"), [("/nonsense", "is not a command"), ("/save", "needs a file"), ("/again", "no message")]
)
def test_an_error_says_what_is_wrong(here: Here, line: str, message: str) -> None:
    code, printed, said = here.chat([line, "Hi"])
    assert code == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert printed == ""


def test_help_lists_the_commands(here: Here) -> None:
    _, printed, _ = here.chat(["/help"])
    for command in ("/reset", "/system", "/again", "/history", "/save", "/stats", "/exit"):
        assert command in printed


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent Ctrl-C alone")
def test_ctrl_c_stops_one_answer_and_the_conversation_goes_on() -> None:
    code = """
from genai_iface.cli import generation
from genai_iface import TextGenerationPipeline
from tests.fakes import ByteTokenizer, FakeModel, speaks
import time
model = FakeModel(258, script=speaks("x" * 5000), context_length=9999, on_step=lambda step: time.sleep(0.01))
generation.TextGenerationPipeline = lambda *a, **k: TextGenerationPipeline.from_parts(model, ByteTokenizer())
from genai_iface.cli.main import main
raise SystemExit(main(["chat", "--max-new-tokens", "3000"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("1\n")
    process.stdin.flush()
    assert process.stdout.read(3) == "xxx"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate("/history\n", timeout=60)
    assert process.returncode == 0
    answer, *history = printed.splitlines()
    assert len(answer) < 2900
    assert history == ["user: 1", f"assistant: xxx{answer}"]
