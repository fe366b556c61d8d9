# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Shows on stderr that something takes time, if somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Progress"]


class Progress:
    """One line on stderr that goes away again; nothing at all if stderr is not a terminal."""

    def __init__(self) -> None:
        self._status: Status | None = None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Shows that a model is being loaded."""
        self._show("loading the model")
        try:
            yield
        finally:
            self.stop()

    def working(self, text: str) -> None:
        """Shows what is being done, until the next text or ``stop``."""
        self._show(text)

    def prefill(self, done: int, total: int) -> None:
        """Shows how much of a long prompt has run."""
        if done < total:
            self._show(f"reading the prompt: {done} of {total} tokens")
        else:
            self.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Shows how much of some work is done: "what: done of total"."""
        if done < total:
            self._show(f"{what}: {done} of {total}")
        else:
            self.stop()

    def stop(self) -> None:
        """Takes the line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _show(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        if self._status is not None:
            self._status.update(text)
            return
        from rich.console import Console  # noqa: PLC0415

        self._status = Console(stderr=True, highlight=False).status(text)
        self._status.start()
