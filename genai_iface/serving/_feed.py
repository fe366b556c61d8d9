# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The chunks of several scheduled requests for asyncio, without a thread for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.results import Chunk

__all__ = ["feed"]


async def feed(requests: Sequence[ScheduledRequest], *, at_the_end: bool = False) -> AsyncIterator[tuple[int, Chunk]]:
    """Yields (which request, its chunk) as they come, until all have ended.

    Args:
        requests: Whose chunks.
        at_the_end: Whether nobody wants a request's chunks before it has ended: then it wakes the loop once.

    Raises:
        BackendError: A step failed; all requests are cancelled then.
        Exception: Whatever ended a request.
    """
    loop = asyncio.get_running_loop()
    has_news = asyncio.Event()

    def wake_for(request: ScheduledRequest) -> Callable[[], None]:
        def wake() -> None:
            if at_the_end and not request.is_done:
                return
            # The steps may outlive the loop of a server that has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(has_news.set)

        return wake

    for request in requests:
        request.listen(wake_for(request))
    positions = [0] * len(requests)
    while True:
        await has_news.wait()
        has_news.clear()
        # Asked before the chunks are taken: what comes in between wakes this up again.
        is_over = all(request.is_done for request in requests)
        for at, request in enumerate(requests):
            new = request.chunks_from(positions[at])
            positions[at] += len(new)
            for chunk in new:
                yield at, chunk
        if is_over:
            # An error stands behind the last chunk of its request.
            for at, request in enumerate(requests):
                request.chunks_from(positions[at])
            return
