# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The servers under load: processes of their own, each on the loopback at a free port."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Target", "free_port", "on_processors", "own_command", "running"]

_START_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Target:
    """A server that runs.

    Attributes:
        port: Where it listens.
        pid: Its process.
        model: The name of its model.
    """

    port: int
    pid: int
    model: str

    @property
    def resident_bytes(self) -> int:
        """What of its memory is in RAM."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    @property
    def cpu_seconds(self) -> dict[int, float]:
        """Time that each of its threads has computed so far."""
        found = {}
        for path in Path(f"/proc/{self.pid}/task").iterdir():
            # A thread may end meanwhile.
            with suppress(FileNotFoundError, ProcessLookupError):
                found[int(path.name)] = int((path / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
        return found

    def metric(self, name: str) -> float:
        """One of our server's metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"genai_iface_{name} "))


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    model: str,
    log: Path,
    *,
    ready: str = "/health",
    processors: Collection[int] | None = None,
) -> Iterator[Target]:
    """Starts a server and ends it.

    Args:
        command: The server's.
        port: Where it will listen.
        model: The name of its model.
        log: Takes what it prints.
        ready: Answers with 200 once it can be asked.
        processors: On which it runs; None for all.

    Raises:
        RuntimeError: It does not answer in time.
    """
    with log.open("wb") as out, on_processors(processors):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        end = time.monotonic() + _START_SECONDS
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[:4]} does not answer; its log is {log}")
            time.sleep(0.2)
        yield Target(port, process.pid, model)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def on_processors(processors: Collection[int] | None) -> Iterator[None]:
    """Threads and processes that begin inside run on these processors; None for all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def own_command(source: str | None, port: int, options: Mapping[str, Any], *, slots: int, queue: int) -> list[str]:
    """The command of our own server, with options of its backend."""
    command = [sys.executable, "-m", "genai_iface", "serve", *([source] if source else []), "--backend", "ort"]
    for name, value in options.items():
        command += ["--option", f"{name}={json.dumps(value)}"]
    command += ["--port", str(port), "--slots", str(slots)]
    return [*command, "--max-queue", str(queue)]


def _answers(port: int, path: str) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", path)
            with connection.getresponse() as answer:
                return answer.status == 200
    except OSError:
        return False
