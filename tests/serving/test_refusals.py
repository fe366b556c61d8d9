# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a client sends is answered with its field and a remedy, never with a fault of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from genai_iface import InvalidInputError, OutputError, TextGenerationPipeline, UnsupportedCapabilityError
from genai_iface.generation.constraints.guidance import Guidance
from genai_iface.serving import Server, ServerSettings, read_api_keys
from tests.fakes import ByteTokenizer, FakeModel
from tests.generation.constraints.constrained import pipeline
from tests.models import write_folder
from tests.serving.served import MESSAGES, ask, client_of, serving, until

CHAT, COMPLETE, RESPOND = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOOL = {"type": "function", "function": {"name": "now"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_folder(tmp_path_factory.mktemp("refusals") / "model", max_positions=128)
    settings = ServerSettings(port=0, model_name="m", max_body_bytes=20_000, slots=2, max_queue=3)
    with TextGenerationPipeline(folder, backend="ort") as pipeline, Server(pipeline, settings) as server:
        yield server


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, "max_tokens": 2, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Hi", "max_tokens": 2, **fields}


REFUSED: list[tuple[str, Any, str | None]] = [
    (COMPLETE, b"{", None),
    (COMPLETE, b"[" * 10_000, None),
    (COMPLETE, b"\xff\xfe", None),
    (COMPLETE, [], None),
    (COMPLETE, {"model": "m"}, "prompt"),
    (COMPLETE, completion(prompt=""), "prompt"),
    (COMPLETE, completion(prompt=[]), "prompt"),
    (COMPLETE, completion(prompt=[1, "a"]), "prompt"),
    (COMPLETE, completion(prompt=[999_999]), "prompt"),
    (COMPLETE, completion(prompt=b"\\ud800".decode("unicode_escape")), "prompt"),
    (CHAT, b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', "messages"),
    (CHAT, b'{"model": "m", "seed": ' + b"9" * 5000 + b"}", None),
    (COMPLETE, completion(prompt="x" * 200), "prompt"),
    (COMPLETE, completion(max_tokens=-1), "max_tokens"),
    (COMPLETE, completion(max_tokens="2"), "max_tokens"),
    (COMPLETE, completion(max_tokens=2.5), "max_tokens"),
    (COMPLETE, completion(max_tokens=10**400), "max_tokens"),
    (COMPLETE, completion(temperature=-1), "temperature"),
    (COMPLETE, b'{"model": "m", "prompt": "Hi", "temperature": NaN}', "temperature"),
    (COMPLETE, completion(top_p=0), "top_p"),
    (COMPLETE, completion(n=0), "n"),
    (COMPLETE, completion(n=100), "n"),
    (COMPLETE, completion(best_of=3), "best_of"),
    (COMPLETE, completion(suffix="x"), "suffix"),
    (COMPLETE, completion(seed="a"), "seed"),
    (COMPLETE, completion(stop=[""]), "stop"),
    (COMPLETE, completion(stop=5), "stop"),
    (COMPLETE, completion(logit_bias={"a": 1}), "logit_bias"),
    (COMPLETE, completion(logit_bias={"1": 1000}), "logit_bias.1"),
    (COMPLETE, completion(logit_bias={"99999": 1}), "logit_bias"),
    (COMPLETE, completion(stop_token_ids=[-1]), "stop_token_ids.0"),
    (COMPLETE, completion(stream_options={"include_usage": True}), "stream_options"),
    (COMPLETE, completion(guided_regex="("), "guided_regex"),
    (COMPLETE, completion(guided_regex=""), "guided_regex"),
    (COMPLETE, completion(guided_regex="a", guided_grammar="b"), "guided_grammar"),
    (COMPLETE, completion(guided_json='{"type": "nothing"}'), "guided_json"),
    (COMPLETE, completion(guided_json="{"), "guided_json"),
    (COMPLETE, completion(structured_outputs={"grammar": "nonsense"}), "structured_outputs.grammar"),
    # They are found while they are used: without a beginning, without an end.
    (COMPLETE, completion(guided_grammar="start: start"), "guided_grammar"),
    (COMPLETE, completion(structured_outputs={"grammar": 'start: "a" start'}), "structured_outputs.grammar"),
    (CHAT, chat(messages=[]), "messages"),
    (CHAT, chat(messages=[{"role": "wizard", "content": "x"}]), "messages.0.role"),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "messages.0.content.0.image_url",
    ),
    (CHAT, chat(messages=[{"role": "user", "content": "x" * 300}]), "messages"),
    (CHAT, chat(max_completion_tokens=1), "max_tokens"),
    (CHAT, chat(top_logprobs=2), "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (CHAT, chat(response_format={"type": "xml"}), "response_format"),
    (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 3}}}),
        "response_format",
    ),
    (CHAT, chat(response_format={"type": "json_object"}, guided_regex="a"), "response_format"),
    (CHAT, chat(tools=[TOOL, TOOL]), "tools"),
    (CHAT, chat(tools=[{"type": "web_search"}]), "tools.0.type"),
    (CHAT, chat(tool_choice="required"), "tool_choice"),
    (CHAT, chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}), "tool_choice"),
    (CHAT, chat(tools=[TOOL], tool_choice="required", guided_regex="a"), "tool_choice"),
    (CHAT, chat(chat_template_kwargs={"messages": []}), "chat_template_kwargs"),
    (CHAT, chat(functions=[]), "functions"),
    (RESPOND, {"model": "m", "input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
    (RESPOND, {"model": "m", "input": []}, "input"),
    (RESPOND, {"model": "m", "input": "x", "text": {"format": {"type": "grammar"}}}, "text.format"),
    (RESPOND, {"model": "m", "input": "x", "max_output_tokens": 0}, "max_output_tokens"),
]


@pytest.mark.parametrize(("path", "body", "param"), REFUSED)
def test_the_field_is_named(server: Server, path: str, body: Any, param: str | None) -> None:
    status, answer, headers = ask(server, path, body)
    assert status == 400, answer
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert len(error["message"]) > 15
    assert headers["x-request-id"]


def test_the_limit_of_the_model_is_told(server: Server) -> None:
    _, answer, _ = ask(server, COMPLETE, completion(prompt="x" * 200))
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "200 tokens" in answer["error"]["message"]
    assert "128" in answer["error"]["message"]


def test_other_ways_to_be_wrong(server: Server) -> None:
    status, answer, _ = ask(server, COMPLETE, completion(model="other"))
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
    assert ask(server, "/v1/models/other")[0] == 404
    assert ask(server, "/v1/nothing")[1]["error"]["code"] == "not_found"
    assert ask(server, COMPLETE)[0] == 405
    assert ask(server, COMPLETE, completion(), headers={"Content-Type": "text/plain"})[0] == 400
    assert ask(server, COMPLETE, completion(prompt="x" * 30_000))[0] == 413
    # No length is told in advance.
    status, answer, _ = chunked(server, [b'{"model": "m", "prompt": "', *[b"x" * 1000] * 40, b'"}'])
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    assert ask(server, COMPLETE, completion())[0] == 200


def chunked(server: Server, pieces: list[bytes]) -> tuple[int, Any, Any]:
    import http.client
    import json

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", COMPLETE, iter(pieces), {"Content-Type": "application/json"}, encode_chunked=True)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers
    finally:
        connection.close()


def test_keys() -> None:
    with serving(api_keys=("first", "second")) as server:
        for header in (None, "Bearer", "Bearer wrong", "Basic first", "first", "Bearer first second"):
            headers = {} if header is None else {"Authorization": header}
            status, answer, _ = ask(server, COMPLETE, completion(), headers=headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        for key in ("first", "second"):
            assert ask(server, COMPLETE, completion(), headers={"Authorization": f"Bearer {key}"})[0] == 200
        assert ask(server, "/health")[0] == 200


def test_files_of_keys(tmp_path: Any) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\n one \ntwo\n", encoding="utf-8")
    assert read_api_keys(path) == ("one", "two")
    for text in ("# none\n", "a b\n", "ä\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InvalidInputError):
            read_api_keys(path)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_api_keys(tmp_path / "missing")


def test_other_origins_are_not_let_in(server: Server) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    status, _, given = ask(server, COMPLETE, method="OPTIONS", headers=headers)
    assert status == 405
    assert not [name for name in given if name.lower().startswith("access-control")]
    assert ask(server, "/docs")[0] == 404


@pytest.mark.parametrize(
    "fields",
    [{"port": 70_000}, {"slots": 0}, {"max_queue": -1}, {"model_name": ""}, {"drain_seconds": -1}, {"capacity": 0}],
)
def test_settings_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        ServerSettings(**fields)


def test_what_cannot_be_served_is_said_at_once(server: Server) -> None:
    with TextGenerationPipeline.from_parts(FakeModel(258, window=8), ByteTokenizer()) as pipeline:
        with pytest.raises(UnsupportedCapabilityError, match="wraps around"):
            Server(pipeline, ServerSettings(port=0))
        with pytest.raises(OutputError, match="cannot listen"):
            Server(pipeline, ServerSettings(port=server.port))
        with pytest.raises(InvalidInputError, match="tool parser"):
            Server(pipeline, ServerSettings(port=0, tool_parser="nothing"))


# Grammars that take long to compile or to follow: who sends them is told so, and the others go on meanwhile.

# Every text is a sentence in more ways than can be counted.
AMBIGUOUS = "start: " + " | ".join(f"s{at}" for at in range(30)) + "\n"
AMBIGUOUS += "".join(f's{at}: s{at} s{at} | s{(at + 1) % 30} s{at} | /[a-z ]/ | ""\n' for at in range(30))
# llguidance finds only while it is used that this is too much.
TOO_LARGE = "(([a-z]{1,200}){1,200}){1,50}"
HOSTILE = [
    ({"guided_grammar": AMBIGUOUS}, "guided_grammar"),
    ({"structured_outputs": {"grammar": AMBIGUOUS}}, "structured_outputs.grammar"),
    ({"guided_regex": TOO_LARGE}, "guided_regex"),
    ({"guided_json": {"type": "string", "pattern": f"^{TOO_LARGE}$"}}, "guided_json"),
]


@contextmanager
def guided(**fields: Any) -> Iterator[Server]:
    """A server whose tokenizer llguidance understands."""
    settings = ServerSettings(port=0, model_name="m", **fields)
    with pipeline("byte_level") as pipe, Server(pipe, settings) as server:
        yield server


def plain(client: openai.OpenAI) -> str:
    """The streamed answer to a question without a grammar."""
    stream = client.completions.create(model="m", prompt="Hi", max_tokens=12, stream=True)
    return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def guided_completion(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Hi", "max_tokens": 300, "temperature": 1, "seed": 3, **fields}


@pytest.mark.parametrize(("fields", "param"), HOSTILE)
def test_what_is_too_much_to_follow_is_a_fault_of_its_field(fields: dict[str, Any], param: str) -> None:
    with guided(slots=2) as server, client_of(server) as client, ThreadPoolExecutor(1) as pool:
        alone = plain(client)
        job = pool.submit(ask, server, COMPLETE, guided_completion(ignore_eos=True, **fields))
        beside = [plain(client) for _ in range(3)]
        status, answer, _ = job.result(60)
        assert status == 400, answer
        assert answer["error"]["type"] == "invalid_request_error"
        assert answer["error"]["param"] == param
        assert beside == [alone] * 3


def test_a_response_format_that_is_too_much_is_named_too() -> None:
    schema = {"name": "a", "schema": {"type": "string", "pattern": f"^{TOO_LARGE}$"}}
    body = {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    with guided() as server:
        status, answer, _ = ask(server, CHAT, body)
        assert (status, answer["error"]["param"]) == (400, "response_format")


def test_others_are_answered_while_grammars_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many clients as there are places wait for their grammars; none of them has a thread that others need."""
    go_on, begun = threading.Event(), threading.Semaphore(0)
    start = Guidance.start

    def slow(self: Guidance, *arguments: Any) -> Any:
        begun.release()
        assert go_on.wait(60)
        return start(self, *arguments)

    monkeypatch.setattr(Guidance, "start", slow)
    count = 60
    with (
        guided(slots=4, max_queue=count + 4) as server,
        client_of(server, timeout=20) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        try:
            alone = plain(client)
            jobs = [
                pool.submit(ask, server, COMPLETE, guided_completion(guided_regex="[a-z]{3}")) for _ in range(count)
            ]
            until(lambda: begun.acquire(blocking=False))
            assert [plain(client) for _ in range(4)] == [alone] * 4
            messages: Any = MESSAGES
            assert client.chat.completions.create(model="m", messages=messages, max_tokens=3).choices
            assert not any(job.done() for job in jobs)
        finally:
            go_on.set()
        answers = [job.result(60) for job in jobs]
        assert [status for status, _, _ in answers] == [200] * count
