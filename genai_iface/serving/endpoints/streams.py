# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Answers as streams of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from fastapi import Request
from fastapi.responses import StreamingResponse

from genai_iface.results import FinishReason
from genai_iface.serving._service import ClientGone, Job
from genai_iface.serving.protocol.errors import ApiError
from genai_iface.serving.protocol.sse import event

__all__ = ["GONE_STATUS", "finish_of", "stream_answer"]

GONE_STATUS = 499
"""What the log says of a client that did not wait; nobody gets it."""


class _Ends(Protocol):
    """A chunk, or what was made from one."""

    @property
    def finish_reason(self) -> FinishReason | None: ...


def stream_answer(request: Request, job: Job, events: AsyncIterator[bytes]) -> StreamingResponse:
    """Sends events, and ends the job when its client goes away.

    Args:
        request: Of the client.
        job: What the events are made from.
        events: They end by themselves once the job has ended.
    """
    return StreamingResponse(
        _watched(request, job, events),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _watched(request: Request, job: Job, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        job.close()

    watcher = asyncio.ensure_future(watch())
    try:
        async for data in events:
            yield data
    except ApiError as error:
        # The status is sent already; what is wrong stands in the stream.
        if not is_gone:
            yield event(error.body)
    except ClientGone:
        pass
    finally:
        watcher.cancel()
        job.close()


def finish_of(chunks: Sequence[_Ends], *, has_calls: bool = False) -> tuple[str, str | None]:
    """``finish_reason`` of a sequence, and what only we call so: "time" if its time was over."""
    reason = chunks[-1].finish_reason if chunks else None
    if reason == "time":
        return "length", "time"
    if reason == "stop" and has_calls:
        return "tool_calls", None
    return reason or "stop", None
