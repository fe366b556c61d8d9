# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A harness process and the conversation with it: one request, one reply; restarted after it died."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from genai_iface.conformance.wire._errors import as_error
from genai_iface.errors import InterfaceVersionError, InvalidInputError
from genai_iface.version import SUPPORTED_INTERFACE_VERSIONS

__all__ = ["SCHEMA", "WIRE_VERSION", "WIRE_VERSIONS", "Connection", "HarnessError"]

SCHEMA = Path(__file__).parent / "wire.schema.json"
"""The JSON Schema of all messages."""

WIRE_VERSION = 2
"""The version of the protocol, counted apart from the interface's. Version 1 knew the profile "step" only."""

WIRE_VERSIONS = (1, WIRE_VERSION)
"""What the kit speaks."""

_LAST_WORDS = 40
_SECONDS_TO_END = 5.0


class HarnessError(Exception):
    """The harness broke the protocol, took too long or died. No error of the interface: a check never wants it."""


class Connection:
    """A harness that is started when it is needed, and again after it died.

    Args:
        command: The program and its arguments.
        time_limit: Most seconds for one reply.
    """

    def __init__(self, command: Sequence[str], *, time_limit: float = 60.0) -> None:
        self.command, self.time_limit = tuple(command), time_limit
        self.said: Mapping[str, Any] = {}
        self.generation = 0
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listener = threading.Thread()

    @property
    def folder(self) -> Path:
        """Where the harness may write tensor files."""
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="genai-iface-wire-")
        return Path(self._files.name)

    def ensure(self) -> int:
        """Starts the harness if it does not run; the number of the start.

        Raises:
            InvalidInputError: The command cannot be run.
            InterfaceVersionError: It speaks another version of the protocol.
            HarnessError: It does not say hello.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self.generation

    def call(self, name: str, /, **arguments: Any) -> Mapping[str, Any]:
        """One request and its reply.

        Raises:
            GenAIError: The harness replied with an error; which class, its code says.
            HarnessError: There was no reply.
        """
        with self._lock:
            self.ensure()
            return self._talk(name, arguments)

    def close(self) -> None:
        """Ends the harness."""
        with self._lock:
            if self._process is not None:
                if self._process.poll() is None:
                    self._end_gently(self._process)
                self._stop(self._process)
                self._process = None
            if self._files is not None:
                self._files.cleanup()
                self._files = None

    def _talk(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        identifier = next(self._ids)
        self._send({"id": identifier, "call": name, **arguments})
        message = self._receive(name)
        if message.get("id") != identifier:
            self._fail(name, f"replied to {message.get('id')!r}, not to {identifier}")
        if "error" in message:
            try:
                error = as_error(message["error"])
            except (ValueError, AttributeError) as broken:
                raise HarnessError(f"The harness replied to {name!r} with an error that is none: {broken}") from broken
            raise error
        result = message.get("result")
        if not isinstance(result, dict):
            self._fail(name, "replied without a result")
        return result

    def _start(self) -> None:
        self._lines, self._errors = queue.SimpleQueue(), deque(maxlen=_LAST_WORDS)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command that the user named
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise InvalidInputError(
                f"The harness {' '.join(self.command)!r} cannot be started: {error.strerror}",
                remedy="Give a program and its arguments, as in --command 'node harness.mjs'.",
            ) from error
        process, lines, errors = self._process, self._lines, self._errors
        threading.Thread(target=_pump, args=(process.stdout, lines.put, lambda: lines.put(None)), daemon=True).start()
        self._listener = threading.Thread(target=_pump, args=(process.stderr, errors.append), daemon=True)
        self._listener.start()
        self.generation += 1
        hello = {"wire_versions": list(WIRE_VERSIONS), "interface_versions": sorted(SUPPORTED_INTERFACE_VERSIONS)}
        self.said = self._talk("hello", hello | {"files": str(self.folder)})
        if self.said.get("wire_version") not in WIRE_VERSIONS:
            raise InterfaceVersionError(
                f"The harness speaks wire version {self.said.get('wire_version')!r}, the kit 1 and {WIRE_VERSION}",
                remedy="Bring both to a common version; docs/spec/wire.md.",
            )

    def _send(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise HarnessError("The harness does not run.")
        try:
            process.stdin.write(json.dumps(message, separators=(",", ":")) + "\n")
            process.stdin.flush()
        except OSError:
            # It is gone; receiving says with which last words.
            return

    def _receive(self, name: str) -> Mapping[str, Any]:
        try:
            line = self._lines.get(timeout=self.time_limit)
        except queue.Empty:
            self._fail(name, f"gave no reply within {self.time_limit:g} s")
        if line is None:
            self._fail(name, "ended")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._fail(name, f"wrote a line that is no message: {line.strip()[:200]!r}")
        return message

    def _fail(self, name: str, what: str) -> NoReturn:
        """Ends the harness; whatever it would say next belongs to no request."""
        code = None
        if self._process is not None:
            if what == "ended":
                code = self._wait(self._process)
            self._stop(self._process)
            self._listener.join(_SECONDS_TO_END)
        words = "".join(self._errors).strip()[-600:]
        self._process = None
        how = f" with exit code {code}" if code is not None else ""
        raise HarnessError(f"The harness {what}{how} in {name!r}; its last words: {words or 'none'}")

    def _end_gently(self, process: subprocess.Popen[str]) -> None:
        self._send({"id": next(self._ids), "call": "close"})
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        self._wait(process)

    @staticmethod
    def _wait(process: subprocess.Popen[str]) -> int | None:
        try:
            return process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return None

    @classmethod
    def _stop(cls, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
            cls._wait(process)
        if process.stdin is not None:
            # What was not yet written to a process that is gone.
            with suppress(OSError):
                process.stdin.close()


def _pump(stream: IO[str], put: Callable[[str], object], end: Callable[[], object] | None = None) -> None:
    with stream:
        for line in stream:
            put(line)
    if end is not None:
        end()
