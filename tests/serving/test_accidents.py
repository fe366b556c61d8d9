# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface serve`` where nothing can be written: it says so in one line and leaves the port, or serves on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

FULL = Path("/dev/full")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(port: int, *words: str, close: int | None = None, **streams: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "genai_iface", "serve", "--backend", "numpy", "--port", str(port), *words]
    closing = None if close is None else lambda: os.close(close)
    return subprocess.Popen(command, text=True, preexec_fn=closing, **streams)  # noqa: PLW1509 - it only closes


def check_refused(process: subprocess.Popen[str], port: int, expected: str) -> None:
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    (line,) = err.splitlines()
    assert line.startswith("genai-iface: ")
    assert expected in line
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def check_serves(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    try:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            for _ in range(3):
                assert client.completions.create(model="embedded", prompt="Add", max_tokens=2).choices[0].text
            with pytest.raises(openai.BadRequestError):
                client.completions.create(model="embedded", prompt="Add", temperature=9)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (0, -signal.SIGTERM)


def test_standard_output_is_full() -> None:
    port = free_port()
    with FULL.open("w") as full:
        check_refused(start(port, stdout=full, stderr=subprocess.PIPE), port, "No space left on device")


def test_standard_output_is_closed() -> None:
    port = free_port()
    check_refused(
        start(port, close=1, stderr=subprocess.PIPE), port, "The standard output cannot be written: it is closed."
    )


def test_the_logs_are_on_a_full_disk() -> None:
    with FULL.open("w") as full:
        check_serves(start(0, stdout=subprocess.PIPE, stderr=full))


def test_the_logs_are_closed() -> None:
    check_serves(start(0, close=2, stdout=subprocess.PIPE))


def test_the_port_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = start(port, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert f"cannot listen at '127.0.0.1', port {port}: Address already in use" in line
    assert out == ""
