# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a caller's streamer and hook are told while the chunks of a call come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from genai_iface.errors import InvalidInputError
from genai_iface.generation.hooks import ChunkHook, GenerationHooks
from genai_iface.results import Chunk

__all__ = ["streaming_to"]


@contextmanager
def streaming_to(hooks: GenerationHooks, num_sequences: int, cancel: Callable[[], None]) -> Iterator[ChunkHook]:
    """Gives what must be called with each chunk, and ends the streamer.

    Args:
        hooks: The caller's; ``on_chunk`` is called first.
        num_sequences: Of the call.
        cancel: Is called when the streamer has enough.

    Raises:
        InvalidInputError: There are several sequences, whose pieces would be mixed up, or it is not a streamer.
    """
    streamer = hooks.streamer
    if streamer is not None and num_sequences > 1:
        raise InvalidInputError(
            f"A streamer takes one sequence, the call has {num_sequences}",
            remedy="Use on_chunk, whose chunks have an index.",
        )
    end = getattr(streamer, "end", None)
    write = getattr(streamer, "write", streamer)
    if streamer is not None and not callable(write):
        raise InvalidInputError(
            f"{type(streamer).__name__} is not a streamer", remedy="Give it write(text) and end(), or pass a function."
        )

    def take(chunk: Chunk) -> None:
        if hooks.on_chunk is not None:
            hooks.on_chunk(chunk)
        # "is True": sys.stdout.write returns a number.
        if callable(write) and chunk.text and write(chunk.text) is True:
            cancel()

    try:
        yield take
    finally:
        if callable(end):
            end()
