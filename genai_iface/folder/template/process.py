# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A process that renders a chat template, so that its time and memory have an end whatever it does.

No list of dangerous operations is complete; a process is bounded as a whole. ``template_worker`` is what runs in it.
"""

from __future__ import annotations

import io
import marshal
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self, cast

from genai_iface.errors import UnsupportedCapabilityError

__all__ = ["Answer", "TemplateProcess"]

_START_SECONDS = 60.0
_MEMORY = 2**29  # bytes, beyond what the interpreter and Jinja take
_MAX_MESSAGE = 2**12  # bytes of an answer that is not text

# Of the environment only what the interpreter and the time of day need.
_KEPT = ("TZ", "TZDIR", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
_NEEDED = ("jinja2", "markupsafe")
_PROGRAM = "import sys; sys.path += sys.argv[1:]; import template_worker; template_worker.main()"
# On Windows only: no console window, and no Ctrl-C.
_CREATION_FLAGS: int = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a rendering.

    Attributes:
        kind: "text", or why there is none: "stopped" (over a limit), "forbidden", "refused" (by the template itself),
            "failed" (in an operation), "syntax", "invalid" (it cannot be compiled).
        text: The rendered text, or the reason.
    """

    kind: str
    text: str


class TemplateProcess:
    """One process, for one template; started at once.

    Attributes:
        is_fit: Whether it can render again.

    Raises:
        UnsupportedCapabilityError: It cannot be started here.
    """

    def __init__(self) -> None:
        self.is_fit = False
        self._knows_template = False
        self._process = _start()
        try:
            with _Deadline(self, _START_SECONDS):
                self.is_fit = self._send(_MEMORY.to_bytes(8, "little")) and self._receive(_MAX_MESSAGE) == b"ready\n"
        finally:
            if not self.is_fit:
                self.end()
        if not self.is_fit:
            raise _no_process(f"it ended with status {self._process.returncode}")

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, source: str, variables: bytes, seconds: float, characters: int) -> Answer:
        """One rendering."""
        self.is_fit = False
        request = marshal.dumps((None if self._knows_template else source, variables, seconds, characters))
        with _Deadline(self, seconds) as deadline:
            sent = self._send(len(request).to_bytes(8, "little")) and self._send(request)
            answer = self._receive(4 * characters + _MAX_MESSAGE) if sent else bytearray()
        if deadline.has_passed:
            return Answer("stopped", f"it took more than {seconds:g} seconds")
        word, _, text = answer.partition(b"\n")
        kind = word.decode("ascii", "replace")
        if not kind:
            self.end()
            return Answer("stopped", f"its process ended with status {self._process.returncode}")
        self.is_fit = kind in ("text", "forbidden", "refused", "failed")
        self._knows_template = True
        return Answer(kind, text.decode("utf-8", "surrogatepass"))

    def kill(self) -> None:
        """Stops the process, whatever it does. May be called from any thread."""
        self._process.kill()

    def end(self) -> None:
        """Stops the process and leaves nothing of it."""
        self._process.kill()
        self._process.wait()
        self._close()

    def disown(self) -> None:
        """Lets go of a process that belongs to the parent of this one."""
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _send(self, data: bytes) -> bool:
        """Whether all of it could be sent."""
        sink, rest = cast(io.RawIOBase, self._process.stdin), memoryview(data)
        try:
            while rest:
                rest = rest[sink.write(rest) or 0 :]
        except OSError:
            return False  # nobody reads any more
        return True

    def _receive(self, limit: int) -> bytearray:
        """One answer; empty if the process has ended, or says more than it may."""
        size = int.from_bytes(self._exactly(8), "little")
        return self._exactly(size) if size <= limit else bytearray()

    def _exactly(self, count: int) -> bytearray:
        source, data = cast(io.RawIOBase, self._process.stdout), bytearray(count)
        view = memoryview(data)
        while view:
            got = source.readinto(view)
            if not got:
                return bytearray()
            view = view[got:]
        return data


class _Deadline:
    """Stops a process that takes too long over what happens inside.

    A thread does it: pipes have no timeouts that work everywhere.

    Attributes:
        has_passed: Whether it was stopped.
    """

    def __init__(self, worker: TemplateProcess, seconds: float) -> None:
        self.has_passed = False
        self._worker, self._is_over, self._lock = worker, False, threading.Lock()
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        try:
            self._timer.start()
        except RuntimeError as error:
            raise _no_process(f"{error}, and so its time could not be limited") from error
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._is_over = True
        self._timer.cancel()

    def _pass(self) -> None:
        with self._lock:
            if not self._is_over:
                self.has_passed = True
                self._worker.kill()


def _start() -> subprocess.Popen[bytes]:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise _no_process("this program is not a Python interpreter that could be started again")
    own = Path(__file__).parent
    paths = [str(Path(spec.origin).parents[1]) for name in _NEEDED if (spec := find_spec(name)) and spec.origin]
    try:
        return subprocess.Popen(  # noqa: S603 - this very interpreter, and a program of ours
            # Without site-packages' start-up files, the user's folder and the present folder.
            [sys.executable, "-sSPB", "-X", "utf8", "-W", "ignore", "-c", _PROGRAM, *dict.fromkeys(paths), str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=own.anchor,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            # Ctrl-C at the terminal is for the program, not for what it keeps warm.
            start_new_session=True,
            creationflags=_CREATION_FLAGS,
        )
    except OSError as error:
        raise _no_process(str(error)) from error


def _no_process(reason: str) -> UnsupportedCapabilityError:
    return UnsupportedCapabilityError(
        f"Chat templates are rendered in a process of their own, and {sys.executable!r} cannot be started: {reason}",
        remedy="Let this program start a Python interpreter, or render the conversation yourself and pass it as text.",
    )
