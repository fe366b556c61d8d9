# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a template: started when they are needed, kept for the next rendering, ended with their owner."""

from __future__ import annotations

import marshal
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genai_iface.folder.template.process import Answer, TemplateProcess

__all__ = ["TemplateProcesses"]

_MAX_REQUEST = 2**26
# A prompt may be longer than a text of usual length only if what it is made from is long.
_MIN_CHARACTERS, _MAX_CHARACTERS = 2**22, 2**26
_MAX_BUSY = 4


class TemplateProcesses:
    """The processes of one template: none before the first rendering, then one for each thread that renders.

    Args:
        source: The text of the Jinja template.
        seconds: What compiling and rendering may take together.
    """

    def __init__(self, source: str, seconds: float) -> None:
        self._source, self._seconds = source, seconds
        self._pool = _Pool()
        _POOLS.add(self._pool)
        # It runs at the end of the program too.
        weakref.finalize(self, _Pool.end, self._pool)

    def render(self, variables: dict[str, Any]) -> Answer:
        """Renders plain data: None, booleans, numbers, texts, lists, tuples and dictionaries of these.

        Raises:
            UnsupportedCapabilityError: No process can be started here.
            ValueError: The data is nested too deeply.
        """
        data = marshal.dumps(variables)
        if len(data) > _MAX_REQUEST:
            return Answer("stopped", f"the conversation takes {len(data)} bytes, at most {_MAX_REQUEST} are rendered")
        characters = min(max(_MIN_CHARACTERS, 8 * len(data)), _MAX_CHARACTERS)
        with self._pool.process() as process:
            return process.ask(self._source, data, self._seconds, characters)

    def close(self) -> None:
        """Ends the processes; a later rendering starts one again."""
        self._pool.end()


class _Pool:
    """Processes that are busy, and processes that wait."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts afresh; in a forked child, whose parent goes on using the processes."""
        for process in getattr(self, "_all", ()):
            process.disown()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_MAX_BUSY)
        self._all: set[TemplateProcess] = set()
        self._idle: list[TemplateProcess] = []

    @contextmanager
    def process(self) -> Iterator[TemplateProcess]:
        """One for the caller alone; it is ended if it is not fit for another rendering."""
        with self._slots:
            process = self._take()
            try:
                yield process
            finally:
                with self._lock:
                    is_kept = process.is_fit and process in self._all
                    if is_kept:
                        self._idle.append(process)
                    else:
                        self._all.discard(process)
                if not is_kept:
                    process.end()

    def end(self) -> None:
        """Ends all of them, busy ones too."""
        with self._lock:
            idle, busy = self._idle, self._all.difference(self._idle)
            self._idle, self._all = [], set()
        for process in idle:
            process.end()
        for process in busy:
            # Whoever waits for its answer sees that it is gone, and does the rest.
            process.kill()

    def _take(self) -> TemplateProcess:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                process = TemplateProcess()
                with self._lock:
                    self._all.add(process)
                return process
            if process.is_alive:
                return process
            with self._lock:
                self._all.discard(process)
            process.end()


_POOLS: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _forget_in_child() -> None:
    for pool in list(_POOLS):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
