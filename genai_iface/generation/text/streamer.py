# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Streamers: objects, or plain functions, that are told the text of one sequence as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from genai_iface.errors import InvalidInputError
from genai_iface.generation.call import Call
from genai_iface.results import Chunk

__all__ = ["ChunkHook", "Streamer", "TextHook", "streaming_to"]

ChunkHook: TypeAlias = Callable[[Chunk], object]
"""Told each chunk."""

TextHook: TypeAlias = Callable[[str], object]
"""Told each piece of text; True ends the generation."""


class Streamer(Protocol):
    """Takes the text of one sequence while it is generated, in the thread that called ``generate``.

    The next step waits until ``write`` has returned, so that a slow streamer holds the generation back.
    """

    def write(self, text: str, /) -> object:
        """Takes a piece of text: whole characters, at least one, nothing that is taken back later.

        Returns:
            True to end the generation, with the reason "cancelled"; anything else goes on.
        """
        ...

    def end(self) -> object:
        """Is called once after the last piece, also if the generation failed or was cancelled."""
        ...


@contextmanager
def streaming_to(streamer: Streamer | TextHook | None, run: Call, on_chunk: ChunkHook | None) -> Iterator[ChunkHook]:
    """Gives what must be called with each chunk, and ends the streamer.

    Args:
        streamer: A ``Streamer``, a function of the text, or None.
        run: The call.
        on_chunk: The caller's hook for chunks, called first.

    Raises:
        InvalidInputError: There are several sequences, whose pieces would be mixed up, or it is not a streamer.
    """
    if streamer is not None and len(run.prompts) > 1:
        raise InvalidInputError(
            f"A streamer takes one sequence, the call has {len(run.prompts)}",
            remedy="Use on_chunk, whose chunks have an index.",
        )
    end = getattr(streamer, "end", None)
    write = getattr(streamer, "write", streamer)
    if streamer is not None and not callable(write):
        raise InvalidInputError(
            f"{type(streamer).__name__} is not a streamer", remedy="Give it write(text) and end(), or pass a function."
        )

    def take(chunk: Chunk) -> None:
        if on_chunk is not None:
            on_chunk(chunk)
        # "is True": sys.stdout.write returns a number.
        if callable(write) and chunk.text and write(chunk.text) is True:
            run.cancel()

    try:
        yield take
    finally:
        if callable(end):
            end()
