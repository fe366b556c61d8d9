# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The examples run as a reader would run them. (The code in the texts: test_docs.py.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import BACKENDS, needs_ort
from tests.models import write_folder

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(script: Path, *arguments: object, cwd: Path = ROOT) -> str:
    """Runs a script in a process of its own and returns what it printed; nothing may go to stderr."""
    paths = [str(ROOT / path) for path in (".", "backends/numpy", "backends/ort")]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_generate() -> None:
    words = re.findall(r"[A-Za-z]{2,}", run(EXAMPLES / "01_generate.py"))
    assert len(words) >= 10
    assert len(set(words)) >= 5


def check_steps(printed: str) -> None:
    prefill, decode, rewind, again = printed.splitlines()
    assert re.fullmatch(r"prefill: lengths \[5 3\] logits \(2, 1, \d+\)", prefill)
    assert re.fullmatch(r"decode: +lengths \[6 4\] update mode (in_place|copied) bytes \d+", decode)
    assert rewind == "rewind:  lengths [5 3]"
    assert again == "again:   lengths [6 4] same logits True"


def test_step_by_step_on_the_embedded_model() -> None:
    printed = run(EXAMPLES / "02_step_by_step.py")
    check_steps(printed)
    assert "in_place" in printed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("style", "mode"), [("scatter", "in_place"), ("concat_nodes", "copied")])
def test_step_by_step_on_a_folder(tmp_path: Path, style: str, mode: str, backend: str) -> None:
    printed = run(EXAMPLES / "02_step_by_step.py", write_folder(tmp_path / "model", style=style), backend)
    check_steps(printed)
    assert f"update mode {mode}" in printed


def test_stream_and_sample() -> None:
    lines = run(EXAMPLES / "03_stream_and_sample.py").splitlines()
    streamed, printed = "\n".join(lines[:-6]), dict(line.split(":", 1) for line in lines[-5:-2])
    assert re.search("[A-Za-z]{2,}", streamed)
    assert lines[-6] in ("[length]", "[stop]")
    assert printed["alone"].strip() == printed["in batch"].strip()
    assert re.search(r"[^.]' \['stop'\]$", printed["to the first full stop"])
    assert re.fullmatch(r"\d+ prompt tokens, (1[7-9]|2\d|3[0-2]) generated", lines[-2])
    assert re.fullmatch(r"[1-9]\d* tokens/s, first token after \d+\.\d{3} s", lines[-1])


def test_continuous_batching() -> None:
    lines = run(EXAMPLES / "05_continuous_batching.py").splitlines()
    assert re.search("[A-Za-z]{2,}", lines[0])
    assert lines[-3:] == ["[length]", "cancelled: ['cancelled'] True", "as alone: True"]


@needs_ort
def test_swap_the_backend() -> None:
    lines = run(EXAMPLES / "04_swap_the_backend.py").splitlines()
    assert re.fullmatch(r"numpy: [1-9]\d* tokens/s", lines[0])
    assert re.fullmatch(r"ort: [1-9]\d* tokens/s", lines[1])
    assert lines[2] == "equal texts: True"
    assert lines[3].startswith("The Attention operator ")


@pytest.mark.slow
def test_serve() -> None:
    pytest.importorskip("openai", reason="openai is not installed")
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    whole, usage, stream, choice = run(EXAMPLES / "08_serve.py").splitlines()
    assert len(whole) > 20
    assert re.fullmatch(r"usage:  \d+ \+ 16 tokens", usage)
    assert stream == "stream: True"
    assert choice in ("choice: yes", "choice: no")
