# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Template processes that are forked instead of started: the same program and limits, in a hundredth of the time."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from genai_iface.folder.template import process as template_process

__all__ = ["forked_template_processes"]

_SERVER = Path(__file__).with_name("template_server.py")


@contextlib.contextmanager
def forked_template_processes() -> Iterator[None]:
    """In this block the package's template processes are forks of one that has loaded Jinja.

    For a program with one thread, on Linux.
    """
    ours, theirs = socket.socketpair()
    modules = [spec.origin for name in ("jinja2", "markupsafe") if (spec := find_spec(name)) and spec.origin]
    paths = dict.fromkeys([*(str(Path(origin).parents[1]) for origin in modules), str(_own_folder())])
    server = subprocess.Popen(
        [sys.executable, "-sSPB", "-X", "utf8", "-W", "ignore", str(_SERVER), str(theirs.fileno()), *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=_own_folder().anchor,
        env={},
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    start = template_process._start
    template_process._start = lambda: _Fork(ours)  # type: ignore[assignment, return-value]
    try:
        yield
    finally:
        template_process._start = start
        ours.close()
        server.wait()


def _own_folder() -> Path:
    return Path(template_process.__file__).parent


class _Fork:
    """What a ``Popen`` is to the package: pipes, and a process that can be ended.

    Attributes:
        returncode: None while it runs, then 1.
    """

    def __init__(self, server: socket.socket) -> None:
        its_input, our_output = os.pipe()
        our_input, its_output = os.pipe()
        socket.send_fds(server, [b"x"], [its_input, its_output])
        _, (self._handle,), _, _ = socket.recv_fds(server, 1, 1)
        os.close(its_input)
        os.close(its_output)
        self.stdin = io.FileIO(our_output, "wb")
        self.stdout = io.FileIO(our_input, "rb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The status, if it has ended."""
        if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
            self._end()
        return self.returncode

    def kill(self) -> None:
        """Ends it; from any thread."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self) -> int | None:
        """Waits for its end."""
        if self.returncode is None:
            select.select([self._handle], [], [])
            self._end()
        return self.returncode

    def _end(self) -> None:
        self.returncode = 1
        os.close(self._handle)
