# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Servers for tests, on the loopback at free ports, and requests as plain HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from genai_iface import TextGenerationPipeline
from genai_iface.serving import Server, ServerSettings
from tests.fakes import ByteTokenizer, FakeModel, speaks

MESSAGES = [{"role": "user", "content": "Hi"}]


@contextmanager
def serving(model: FakeModel | None = None, **fields: Any) -> Iterator[Server]:
    """A server of a fake model."""
    settings = ServerSettings(port=0, model_name="m", **fields)
    model = model or FakeModel(258, context_length=4096)
    with TextGenerationPipeline.from_parts(model, ByteTokenizer()) as pipeline, Server(pipeline, settings) as server:
        yield server


def saying(text: str, **fields: Any) -> Any:
    """A server whose model says a text."""
    return serving(FakeModel(258, context_length=4096, script=speaks(text)), **fields)


def slow_model(seconds: float, **arguments: Any) -> FakeModel:
    """A model whose steps take a while."""
    import time

    return FakeModel(258, context_length=4096, on_step=lambda _: time.sleep(seconds), **arguments)


def client_of(server: Server, **arguments: Any) -> openai.OpenAI:
    """OpenAI's own client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, **arguments)


def ask(
    server: Server,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, Any, http.client.HTTPMessage]:
    """One request: the status, the body as JSON if it is, and the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    try:
        return answer.status, json.loads(content), answer.headers
    except ValueError:
        return answer.status, content.decode(), answer.headers


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something that happens in another thread."""
    import time

    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def gauge(server: Server, name: str) -> float:
    """The value of a metric without labels."""
    _, text, _ = ask(server, "/metrics")
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"genai_iface_{name} "))


def texts_of(deltas: Sequence[str | None]) -> str:
    """Deltas joined."""
    return "".join(delta or "" for delta in deltas)
