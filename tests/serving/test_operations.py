# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A server in service: queues, clients that go away, deadlines, an end in good order, logs and metrics."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import openai
import pytest

from genai_iface.serving.operations.logs import LOGGER, JsonFormatter
from tests.fakes import FakeModel
from tests.serving.served import MESSAGES, ask, client_of, gauge, saying, serving, slow_model, until

COMPLETE = "/v1/completions"


def long_request(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Hi", "max_tokens": 3000, "ignore_eos": True, **fields}


def begin(port: int, body: dict[str, Any]) -> socket.socket:
    """Sends a request and leaves the connection open."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = (
        f"POST {COMPLETE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(stream: bool) -> None:
    with serving(slow_model(0.005), slots=1) as server:
        connection = begin(server.port, long_request(stream=stream))
        if stream:
            assert connection.recv(100)
        until(lambda: gauge(server, "running_sequences") == 1)
        connection.close()
        until(lambda: gauge(server, "running_sequences") == 0)
        assert ask(server, COMPLETE, long_request(max_tokens=2))[0] == 200


def test_a_full_queue_says_so() -> None:
    with serving(slow_model(0.005), slots=1, max_queue=1) as server:
        connections = [begin(server.port, long_request()) for _ in range(2)]
        until(lambda: gauge(server, "waiting_sequences") == 1)
        status, answer, headers = ask(server, COMPLETE, long_request())
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert int(headers["Retry-After"]) >= 1
        with client_of(server) as client, pytest.raises(openai.RateLimitError):
            client.completions.create(model="m", prompt="x")
        for connection in connections:
            connection.close()
        until(lambda: ask(server, COMPLETE, long_request(max_tokens=1))[0] == 200)


def test_an_answer_has_its_time() -> None:
    with serving(slow_model(0.01), request_seconds=0.2) as server:
        status, answer, _ = ask(server, COMPLETE, long_request())
        assert status == 200
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["choices"][0]["stop_reason"] == "time"
        assert answer["usage"]["completion_tokens"] < 100


def test_a_server_that_stops_lets_answers_end() -> None:
    answers: list[tuple[int, Any]] = []
    with serving(slow_model(0.005), drain_seconds=20) as server:
        worker = threading.Thread(target=lambda: answers.append(ask(server, COMPLETE, long_request(max_tokens=60))[:2]))
        worker.start()
        until(lambda: gauge(server, "running_sequences") == 1)
    worker.join()
    ((status, answer),) = answers
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 60
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/health")


@pytest.mark.parametrize("stream", [True, False])
def test_after_a_limit_answers_are_cut_and_it_is_said(stream: bool) -> None:
    answers: list[tuple[int, Any]] = []
    with serving(slow_model(0.005), drain_seconds=0.1) as server:
        body = long_request(stream=stream)
        worker = threading.Thread(target=lambda: answers.append(ask(server, COMPLETE, body)[:2]))
        worker.start()
        until(lambda: gauge(server, "running_sequences") == 1)
    worker.join()
    ((status, answer),) = answers
    if stream:
        assert status == 200
        assert '"code":"server_stopping"' in answer
        assert "[DONE]" not in answer
    else:
        assert (status, answer["error"]["code"]) == (503, "server_stopping")


def test_a_fault_of_the_model_is_one_of_the_server() -> None:
    def break_down(step: int) -> None:
        if step == 2:
            raise RuntimeError("the device is gone")

    with serving(FakeModel(258, on_step=break_down)) as server:
        status, answer, _ = ask(server, COMPLETE, long_request())
        assert (status, answer["error"]["type"]) == (500, "server_error")
        # The next one is served.
        assert ask(server, COMPLETE, long_request(max_tokens=3))[0] == 200
        assert ask(server, "/health")[0] == 200


def test_logs_and_metrics(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        with saying("hello") as server:
            for given, kept in (("abc-1", True), ("x" * 200, False), ('a"b', False)):
                _, _, headers = ask(server, COMPLETE, long_request(ignore_eos=False), headers={"X-Request-Id": given})
                assert (headers["x-request-id"] == given) == kept
            ask(server, "/v1/nothing")
            _, text, headers = ask(server, "/metrics")
    finally:
        LOGGER.removeHandler(handler)
    assert headers["Content-Type"].startswith("text/plain")
    for line in (
        'genai_iface_requests_total{path="/v1/completions",status="200"} 3.0',
        'genai_iface_requests_total{path="other",status="404"} 1.0',
        "genai_iface_prompt_tokens_total 6.0",
        "genai_iface_generated_tokens_total 18.0",
        "genai_iface_time_to_first_token_seconds_count 3.0",
        "genai_iface_slots 8.0",
    ):
        assert line in text.splitlines(), text
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    first = next(line for line in lines if line.get("request_id") == "abc-1")
    assert (first["status"], first["path"], first["level"]) == (200, COMPLETE, "info")
    assert first["seconds"] > 0


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n", encoding="utf-8")
    command = [sys.executable, "-m", "genai_iface", "serve", "--backend", "numpy", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--api-key-file", str(keys), "--alias", "gpt-x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.split()[-1]
        with openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["embedded", "gpt-x"]
            assert client.completions.create(model="gpt-x", prompt="The Add operator", max_tokens=8).choices[0].text
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {line["path"] for line in lines if line["message"] == "request"} == {"/v1/models", COMPLETE}
    assert process.returncode in (0, -signal.SIGTERM), (out, err)


def test_messages_is_used_as_it_is() -> None:
    """A pipeline's own conversation and the server's have one prompt."""
    with saying("yes") as server, client_of(server) as client:
        whole = client.chat.completions.create(model="m", messages=MESSAGES)
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == len("<user>Hi\n<assistant>")
