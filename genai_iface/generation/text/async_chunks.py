# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Chunks for asyncio: each step runs in a worker thread when its chunk is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator

from genai_iface.results import Chunk

__all__ = ["iterate_in_thread"]


async def iterate_in_thread(chunks: Generator[Chunk, None, None], cancel: Callable[[], None]) -> AsyncIterator[Chunk]:
    """Yields the chunks of a generator.

    No step runs before its reader asks for it, so a slow reader holds the generation back and nothing
    piles up.

    Args:
        chunks: Is run in one thread and closed at the end.
        cancel: Is called when the reader stops, to end a step that still runs.
    """
    import asyncio  # noqa: PLC0415
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    worker = ThreadPoolExecutor(1, thread_name_prefix="genai-iface")
    try:
        while (chunk := await loop.run_in_executor(worker, next, chunks, None)) is not None:
            yield chunk
    finally:
        cancel()
        # Queued behind the step that may still run in that thread.
        await loop.run_in_executor(worker, chunks.close)
        worker.shutdown(wait=False)
