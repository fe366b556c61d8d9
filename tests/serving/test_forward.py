# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Requests that go to one of many replicas: which one, and what happens when it is lost. Without a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai_iface.serving.protocol.errors import ApiError
from genai_iface.serving.scale.affinity import PrefixAffinity, prefix_keys
from genai_iface.serving.scale.forward import Forwarded, ReplicaLost, answers_of, forward

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
REQUEST = Forwarded({"type": "http"}, b"{}")


class Replica:
    """Sends what it is told to; an exception in the list is raised."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self.messages = iter(messages)
        self.is_cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = next(self.messages)
        if isinstance(message, Exception):
            raise message
        return message

    def cancel(self) -> None:
        self.is_cancelled = True


def start(headers: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def forwarded(*replicas: Replica) -> tuple[int, bytes, int]:
    """The status, the body, and how many replicas were asked."""
    left = list(replicas)

    async def run() -> tuple[int, bytes]:
        answer = await forward(REQUEST, lambda _: left.pop(0))
        return answer.status, b"".join([part async for part in answer.body])

    status, data = asyncio.run(run())
    return status, data, len(replicas) - len(left)


@pytest.mark.parametrize("lost", [[ReplicaLost("x")], [start(EVENTS), ReplicaLost("x")]])
def test_what_nobody_has_seen_runs_again(lost: list[Any]) -> None:
    good = Replica([start(EVENTS), body(b"a", more=True), body(b"b")])
    assert forwarded(Replica(lost), good) == (200, b"ab", 2)


def test_a_stream_that_was_seen_ends_with_an_error() -> None:
    status, data, asked = forwarded(Replica([start(EVENTS), body(b"data: 1\n\n", more=True), ReplicaLost("x")]))
    assert (status, asked) == (200, 1)
    first, last = data.decode().strip().split("\n\n")
    assert first == "data: 1"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"


def test_half_an_answer_is_not_passed_off_as_a_whole_one() -> None:
    with pytest.raises(ReplicaLost):
        forwarded(Replica([start(JSON), body(b"{", more=True), ReplicaLost("x")]))


def test_there_is_an_end_of_trying() -> None:
    with pytest.raises(ApiError) as caught:
        forwarded(*(Replica([ReplicaLost("x")]) for _ in range(9)))
    assert (caught.value.status, caught.value.code) == (503, "replica_lost")


def test_a_client_that_goes_away_ends_the_answer() -> None:
    replica = Replica([start(EVENTS), body(b"a", more=True), body(b"b", more=True)])

    async def run() -> None:
        answer = await forward(REQUEST, lambda _: replica)
        assert isinstance(answer.body, AsyncIterator)
        assert await anext(answer.body) == b"a"
        await answer.body.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())
    assert replica.is_cancelled


def test_an_application_is_told_when_nobody_listens() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"].decode())
        await send(start(EVENTS))
        await send(body(b"a", more=True))
        seen.append((await receive())["type"])

    async def run() -> None:
        messages = answers_of(app, Forwarded({"type": "http"}, b"asked"))
        async for message in messages:
            assert message["type"] == "http.response.start"
            break
        await messages.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())
    assert seen == ["asked", "http.disconnect"]


def test_a_fault_of_the_application_comes_through() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("oops")

    async def run() -> None:
        async for _ in answers_of(app, REQUEST):
            pass

    with pytest.raises(KeyError, match="oops"):
        asyncio.run(run())


def asked(*turns: str) -> bytes:
    messages = [{"role": "user", "content": turn} for turn in turns]
    return json.dumps({"model": "m", "temperature": len(turns) / 9, "messages": messages}).encode()


@given(st.lists(st.text(min_size=300, max_size=900), min_size=1, max_size=3), st.text(min_size=300, max_size=600))
def test_a_conversation_that_goes_on_keeps_its_keys(turns: list[str], more: str) -> None:
    before, after = prefix_keys(asked(*turns)), prefix_keys(asked(*turns, more))
    # The last block of the shorter one may reach into what closes its list.
    assert after[: len(before) - 1] == before[:-1]
    assert len(after) > len(before) > 0


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 99999, b'{"messages": 3}', b'{"prompt": "short"}', b"\xff"])
def test_what_is_no_prompt_has_no_keys(data: bytes) -> None:
    assert prefix_keys(data) == ()


def keys(*names: str) -> list[bytes]:
    return [name.encode() for name in names]


def test_a_prompt_goes_where_most_of_it_was() -> None:
    affinity: PrefixAffinity[str] = PrefixAffinity(slack=2)
    affinity.note(keys("a", "ab"), "one")
    affinity.note(keys("a"), "two")
    idle = {"two": 0, "three": 0, "one": 0}
    assert affinity.rank(keys("a", "ab", "abc"), idle)[:2] == ["one", "two"]
    # Unless it has too much to do.
    assert affinity.rank(keys("a", "ab"), {**idle, "one": 3})[0] == "two"
    assert affinity.rank(keys("a", "ab"), {**idle, "one": 2})[0] == "one"
    # A new one goes where the fewest are.
    assert affinity.rank(keys("z"), idle)[0] == "three"
    affinity.forget_others({"two": None})
    assert affinity.rank(keys("a", "ab"), idle)[0] == "two"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8)), max_size=40))
def test_what_is_remembered_is_bounded_and_begins_at_the_beginning(sent: list[tuple[int, int]]) -> None:
    affinity: PrefixAffinity[str] = PrefixAffinity(max_blocks=10)
    for name, length in sent:
        affinity.note([f"{name}:{at}".encode() for at in range(length)], "one")
    for name in range(6):
        # Whoever holds a block counts as holding all before it: true only if these go later.
        wanted = [f"{name}:{at}".encode() for at in range(8)]
        held = [bool(affinity.rank([key], {"other": 0, "one": 0})[0] == "one") for key in wanted]
        assert sorted(held, reverse=True) == held
