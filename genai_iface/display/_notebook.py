# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a notebook shows as it goes: a stream of chunks, a bar for long work."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_iface.results import Chunk

__all__ = ["NotebookBar", "ShownStream", "count_tokens", "notebook_bar", "notebook_part", "notebook_prefill"]

# Work that takes less shows nothing; a browser is not sent more than ten pictures a second.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 0.5, 0.1


class ShownStream:
    """An iterator of chunks. As the last line of a notebook's cell it prints its text while it comes.

    Args:
        chunks: The generator of the chunks; ``close`` closes it, and so does dropping this object.
    """

    def __init__(self, chunks: Generator[Chunk, None, None], /) -> None:
        self._chunks = chunks

    def __iter__(self) -> ShownStream:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def throw(self, error: BaseException, /) -> Chunk:
        """Raises an error where the generation stands, which ends it as ``close`` does."""
        return self._chunks.throw(error)

    def close(self) -> None:
        """Ends the generation and frees its cache. A second call does nothing."""
        self._chunks.close()

    def _ipython_display_(self) -> None:
        for chunk in self._chunks:
            # Several sequences at once would run into each other; each piece of another than the first is marked.
            mark = f"[{chunk.index}] " if chunk.index else ""
            print(f"{mark}{chunk.text}", end="", flush=True)  # noqa: T201 - a notebook's cell is what it prints to
        print()  # noqa: T201


class NotebookBar:
    """One line of a cell, redrawn in place. It stays, as the last thing that was done.

    Args:
        publish: Shows data (by MIME type) under an identifier: the first time, or in place of what is there.
        patience: How long work must take before the line comes.
    """

    def __init__(self, publish: Callable[[dict[str, str], str, bool], None], *, patience: float = 0.0) -> None:
        self._publish = publish
        self._identifier = uuid.uuid4().hex
        self._is_there = False
        self._due = time.monotonic() + patience

    def show(self, what: str, done: int, total: int) -> None:
        """Draws how much of some work is done. All of it is always drawn where there is a line already."""
        text = f"{what}: {done} of {total}"
        share = f'<progress value="{int(done)}" max="{max(1, int(total))}"></progress> '
        self._draw(text, share, is_last=done >= total)

    def working(self, text: str) -> None:
        """Draws what is being done, where nobody knows how much there is."""
        self._draw(text, "", is_last=False)

    def finish(self, text: str) -> None:
        """Draws how the work ended, where there is a line."""
        self._draw(text, "", is_last=True)

    def _draw(self, text: str, share: str, *, is_last: bool) -> None:
        now = time.monotonic()
        if now < self._due and not (is_last and self._is_there):
            return
        data = {"text/plain": text, "text/html": f"{share}<span>{escape(text)}</span>"}
        self._publish(data, self._identifier, self._is_there)
        self._is_there, self._due = True, now + _PAUSE_SECONDS


def notebook_bar(*, patience: float = _PATIENCE_SECONDS) -> NotebookBar | None:
    """A bar in the cell that runs; None where no notebook's kernel runs this process."""
    # A kernel has loaded IPython long ago; nobody else pays for it.
    module: Any = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return None

    def publish(data: dict[str, str], identifier: str, is_update: bool) -> None:
        shell.display_pub.publish(data, transient={"display_id": identifier}, update=is_update)

    return NotebookBar(publish, patience=patience)


def notebook_part(what: str) -> Callable[[int, int], None] | None:
    """What tells (done, total) of some work to a bar of its own; None outside a notebook."""
    bar = notebook_bar()
    return None if bar is None else lambda done, total: bar.show(what, done, total)


def notebook_prefill() -> Callable[[int, int], None] | None:
    """What tells (done, total) of each prompt to a bar of its own; None outside a notebook."""
    if notebook_bar() is None:
        return None
    running: list[NotebookBar | None] = [None]

    def on_prefill(done: int, total: int) -> None:
        # A prompt that runs in one step is not worth a line.
        if running[0] is None and done < total:
            running[0] = notebook_bar(patience=0.0)
        if running[0] is not None:
            running[0].show("reading the prompt: tokens", done, total)
        if done >= total:
            running[0] = None

    return on_prefill


def count_tokens(chunks: Iterable[Chunk], most: int | None, /) -> Iterator[Chunk]:
    """Hands on chunks, and shows in a notebook how many tokens came.

    Args:
        chunks: The pieces of a request, of all its sequences.
        most: How many tokens there can be; None if nothing but the cache limits them.
    """
    bar = notebook_bar()
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk.token_ids)
        if bar is not None and most is not None:
            bar.show("generating: tokens", min(done, most), most)
        elif bar is not None:
            bar.working(f"generating: {done} tokens")
    if bar is not None:
        bar.finish(f"generated {done} tokens")
