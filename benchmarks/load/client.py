# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A client for one request, in whichever way it behaves, and what it saw."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.load.workload import TEMPERATURE, Ask

__all__ = ["Seen", "ask"]

_TIMEOUT = 300
# Sends a request, reads a little, and waits to be killed.
_VICTIM = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.stdin.buffer.read())
connection.recv(400)
print("read", flush=True)
sys.stdin.close()
import time
time.sleep(600)
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client got.

    Attributes:
        ask: What was asked.
        text: As much as it read; None where it read nothing on purpose.
        is_whole: Whether it read to the end.
        error: What went wrong that should not have; None for nothing.
        first_seconds: Until the first text, for streams.
        seconds: Until the end.
        tokens: Of whole answers, as the server counts them.
    """

    ask: Ask
    text: str | None
    is_whole: bool
    error: str | None = None
    first_seconds: float | None = None
    seconds: float = 0.0
    tokens: int = 0


def ask(port: int, model: str, one: Ask) -> Seen:
    """Sends a request and behaves as it says."""
    started = time.perf_counter()
    try:
        if one.kind == "broken":
            return _break(port, model, one)
        if one.kind == "killed":
            return _kill(port, model, one)
        if one.kind == "whole":
            return _wait(port, model, one, started)
        return _read(port, model, one, started)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Seen(one, None, False, f"{type(error).__name__}: {error}")


def _body(model: str, one: Ask, *, stream: bool) -> bytes:
    body: dict[str, Any] = {"model": model, "prompt": one.prompt, "max_tokens": one.max_tokens, "stream": stream}
    body |= {"temperature": 0} if one.seed is None else {"temperature": TEMPERATURE, "seed": one.seed}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


def _post(port: int, data: bytes) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def _wait(port: int, model: str, one: Ask, started: float) -> Seen:
    connection, answer = _post(port, _body(model, one, stream=False))
    data = answer.read()
    connection.close()
    if answer.status != 200:
        return Seen(one, None, False, f"{answer.status}: {data[:200]!r}")
    read = json.loads(data)
    tokens = read["usage"]["completion_tokens"]
    return Seen(one, read["choices"][0]["text"], True, seconds=time.perf_counter() - started, tokens=tokens)


def _read(port: int, model: str, one: Ask, started: float) -> Seen:
    connection, answer = _post(port, _body(model, one, stream=True))
    if answer.status != 200:
        return Seen(one, None, False, f"{answer.status}: {answer.read(200)!r}")
    parts: list[str] = []
    first, tokens, is_whole = None, 0, False
    for line in answer:
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            is_whole = True
            break
        read = json.loads(line.removeprefix(b"data: "))
        if "error" in read:
            return Seen(one, "".join(parts), False, str(read["error"]))
        tokens = (read.get("usage") or {}).get("completion_tokens", tokens)
        parts += [choice["text"] for choice in read["choices"]]
        first = first or time.perf_counter() - started
        if one.kind == "slow":
            time.sleep(0.05)
        elif one.kind == "cancel" and len(parts) >= 1 + one.number % 4:
            break
    # A response to whose connection the server says "close" keeps the socket by itself.
    answer.close()
    connection.close()
    error = None if is_whole or one.kind == "cancel" else "the stream ended early"
    return Seen(one, "".join(parts), is_whole, error, first, time.perf_counter() - started, tokens)


def _request(model: str, one: Ask) -> bytes:
    data = _body(model, one, stream=True)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def _break(port: int, model: str, one: Ask) -> Seen:
    """Sends the request, or half of it, and resets the connection."""
    data = _request(model, one)
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(data if one.number % 2 else data[: len(data) // 2])
        time.sleep(0.001 * (one.number % 30))
    return Seen(one, None, False)


def _kill(port: int, model: str, one: Ask) -> Seen:
    """Lets a process of its own ask, and kills it while it reads."""
    command = [sys.executable, "-S", "-E", "-c", _VICTIM, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_request(model, one))
        process.stdin.close()
        process.stdout.readline()
        process.kill()
    return Seen(one, None, False)
