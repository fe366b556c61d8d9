# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A request on its way to a replica and its answer on the way back: sent again where nothing of it was seen yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from starlette.types import ASGIApp, Message

from genai_iface.serving.operations.logs import LOGGER
from genai_iface.serving.protocol.errors import ApiError
from genai_iface.serving.protocol.sse import event

__all__ = ["Answer", "Forwarded", "ReplicaLost", "Stream", "answers_of", "forward"]

_TRIES = 4
_LAST_WORDS = 5.0
_PLAIN = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client", "server")


class ReplicaLost(Exception):  # noqa: N818 - it says what happened to whom
    """The replica that had a request is gone, or cannot be reached."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request, ready to be sent to another process.

    Attributes:
        scope: What of ASGI's scope is plain data.
        body: All of it.
        keys: Of the beginnings of its prompt, as ``prefix_keys`` gives them.
    """

    scope: dict[str, Any]
    body: bytes
    keys: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, scope: MutableMapping[str, Any], body: bytes, keys: tuple[bytes, ...]) -> Forwarded:
        """The request of a scope."""
        return cls({name: scope[name] for name in _PLAIN if name in scope}, body, keys)


class Stream(Protocol):
    """ASGI messages of an answer, as they come."""

    def __aiter__(self) -> AsyncIterator[Message]: ...

    async def __anext__(self) -> Message: ...

    def cancel(self) -> Any:
        """Ends it; the replica stops to generate."""
        ...


Send: TypeAlias = Callable[[Forwarded], Stream]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has begun.

    Attributes:
        status: Of HTTP.
        headers: As ASGI has them.
        body: Its pieces.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: AsyncIterator[bytes]


async def answers_of(app: ASGIApp, request: Forwarded) -> AsyncIterator[Message]:
    """Runs an application for one request and yields what it sends. Left early, it is told that the client has gone."""
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    left = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Message:
        if left:
            return left.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    work = asyncio.ensure_future(app({**request.scope, "state": {}}, receive, queue.put))
    work.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (message := await queue.get()) is not None:
            yield message
        await work
    finally:
        gone.set()
        # It ends its sequences by itself; it is cut off only if it does not.
        with suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(work), _LAST_WORDS)
        work.cancel()


async def forward(request: Forwarded, send: Send) -> Answer:
    """Sends a request until a replica has begun to answer it.

    A replica that is lost before the first byte of the body has come costs time only: the request goes to another one.
    One that is lost later has its answer ended by an error, in the stream if it is one of events.

    Args:
        request: The request. It may run more than once, so it changes nothing.
        send: Gives it to some replica. What it returns raises ``ReplicaLost`` where that one is gone.

    Raises:
        ApiError: 503, no replica could answer.
    """
    for attempt in range(1, _TRIES + 1):
        stream = send(request)
        try:
            start = await anext(stream)
            first = await anext(stream)
        except ReplicaLost as error:
            LOGGER.warning("replica lost", extra={"attempt": attempt, "cause": str(error)[:500]})
            continue
        except BaseException:
            stream.cancel()
            raise
        headers = [(bytes(name), bytes(value)) for name, value in start["headers"]]
        is_stream = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        return Answer(start["status"], headers, _rest(stream, first, is_stream=is_stream))
    message = f"{_TRIES} replicas were lost while they had this request. Try again later."
    raise ApiError(503, message, code="replica_lost", retry_after=1)


async def _rest(stream: Stream, message: Message, *, is_stream: bool) -> AsyncIterator[bytes]:
    try:
        while True:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return
            message = await anext(stream)
    except ReplicaLost as error:
        LOGGER.warning("replica lost in the middle of an answer", extra={"cause": str(error)[:500]})
        if not is_stream:
            # The connection breaks off, so that nobody takes this for a whole answer.
            raise
        text = "The replica was lost in the middle of the answer, which is not complete. Send the request again."
        yield event(ApiError(503, text, code="replica_lost").body)
    finally:
        stream.cancel()
