# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Servers by their address: ours conforms in the profile "text", and a server that lies is found."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from genai_iface import BackendError, InvalidInputError, TextGenerationPipeline
from genai_iface.cli.main import main
from genai_iface.conformance import GOLDEN, run_checks
from genai_iface.conformance.text import UrlAdapter
from tests.serving.served import Server, ServerSettings

TEXT = "i \U0001f642!é."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = GOLDEN / "text/scatter-float32"
    with TextGenerationPipeline(folder) as pipeline, Server(pipeline, ServerSettings(port=0, model_name="m")) as server:
        yield server


@contextmanager
def liar(**changes: Any) -> Iterator[str]:
    """A server that says the text model's greedy answer to whatever it is asked, but for what is changed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({"data": [{"id": "m"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply({"choices": [{"text": TEXT, "finish_reason": "stop"}]} | changes)

        def reply(self, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


LIGHT = (
    "L4.stop.eos",
    "L4.stop.max_new_tokens",
    "L4.stop.string",
    "L4.pipeline.prompt_order",
    "L4.stream.concatenation",
)


def outcomes(adapter: UrlAdapter, ids: tuple[str, ...]) -> dict[str, str]:
    run = run_checks(adapter, only=ids, seed=1)
    return {item.check.id: item.status for item in run.outcomes if item.status != "not_executed"}


def test_our_server_is_judged_by_its_text(server: Server) -> None:
    got = outcomes(UrlAdapter(server.url, "m"), LIGHT)
    # All of the stream's text is judged; then the check asks for tokens, which the protocol has not.
    assert got == {**dict.fromkeys(LIGHT, "passed"), "L4.stream.concatenation": "not_applicable"}


@pytest.mark.slow
def test_our_server_conforms(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["conformance", "--url", f"{server.url}/v1", "--model", "m", "--seed", "5", "--report", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "m, float32: conforms at level 4 (profile text, 0 of" in said
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    passed = {item["id"] for item in data["checks"] if item["status"] == "passed"}
    assert {"L4.sampling.spread", "L4.sampling.greedy_is_not_random", "L4.stop.batch", *LIGHT[:4]} <= passed


def test_a_server_that_ignores_what_it_is_asked_is_found() -> None:
    with liar() as url:
        got = outcomes(UrlAdapter(url, "m"), LIGHT[:4])
    assert got == dict(zip(LIGHT[:4], ("passed", "failed", "failed", "failed"), strict=True))


def test_replies_that_are_none() -> None:
    with liar(choices=[]) as url:
        pipeline = UrlAdapter(url, "m").text_pipeline(GOLDEN / "text/scatter-float32")
        with pytest.raises(BackendError, match="cannot be read"):
            pipeline.generate("H", max_new_tokens=1)


def test_addresses_and_names_that_are_wrong(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("file:///etc/passwd", "127.0.0.1:80", ""):
        with pytest.raises(InvalidInputError, match="not the address of a server"):
            UrlAdapter(url, "m")
    with pytest.raises(InvalidInputError, match="lists: m"):
        UrlAdapter(server.url, "other").backend()
    assert main(["conformance", "--url", server.url]) == 2
    assert main(["conformance", "numpy", "--url", server.url, "--model", "m"]) == 2
    assert main(["conformance", "--url", "http://127.0.0.1:9", "--model", "m"]) == 1
    assert "does not answer" in capsys.readouterr().err
