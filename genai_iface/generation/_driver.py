# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs engines: the right one for each request, step by step in turn with all others of the same model."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager

from genai_iface.errors import InvalidInputError
from genai_iface.generation._own_process import OwnProcess
from genai_iface.generation.engine import Engine
from genai_iface.results import Chunk

__all__ = ["Driver"]


class Driver:
    """Drives the engines of one pipeline.

    Args:
        model_lock: Is held during each step.

    Attributes:
        running: The engines whose chunks are being read, each with a lock that is held during its steps, so that
            another thread cannot free the cache under it.
    """

    def __init__(self, model_lock: AbstractContextManager[object]) -> None:
        self.running: dict[Engine, AbstractContextManager[object]] = {}
        self._model_lock = model_lock
        self._process = OwnProcess("pipeline")
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._is_closed

    def run(self, engine: Engine) -> Generator[Chunk, None, None]:
        """Runs the steps of an engine when its chunks are asked for, and closes it at the end.

        Raises:
            InvalidInputError: The pipeline was closed.
            GenAIError: As ``Engine.step``.
        """
        lock = threading.RLock()
        self.running[engine] = lock
        try:
            while not engine.has_ended:
                # Before the locks: in a fork nobody may ever release them.
                self._process.check()
                with lock, self._model_lock:
                    self.check_open()
                    chunks = engine.step()
                yield from chunks
        finally:
            if not self._process.is_other:
                with lock:
                    del self.running[engine]
                    engine.close()

    def cancel(self) -> None:
        """Ends every running engine with what it has. May be called from any thread."""
        for engine in list(self.running):
            engine.cancel()

    def close(self) -> bool:
        """Ends every running engine and frees its cache; False if that was done before, or is another process's."""
        if self._is_closed or self._process.is_other:
            return False
        self._is_closed = True
        self.cancel()
        for engine, lock in list(self.running.items()):
            with lock:
                engine.close()
        return True

    def check_open(self) -> None:
        """Refuses whatever comes after ``close``.

        Raises:
            InvalidInputError: It was closed, or this is a fork of the process that made it.
        """
        self._process.check()
        if self._is_closed:
            raise InvalidInputError("The pipeline is closed", remedy="Make a new one.")
