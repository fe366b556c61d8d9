# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The program behind ``templates.py``: loads what the worker of templates needs, and forks one for each request.

    python template_server.py SOCKET PATH...

A request carries two descriptors, the child's standard input and output; the answer one, of the child itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Serves until its socket is closed."""
    sys.path += sys.argv[2:]
    worker: Any = import_module("template_worker")

    # Whatever is imported at the first use is here before the first fork, and need not be again behind it.
    worker._warm_up(worker.make_environment())
    worker._warm_up = lambda environment: None
    # Children that have ended leave nothing to be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    requests = socket.socket(fileno=int(sys.argv[1]))
    while True:
        _, pipes, _, _ = socket.recv_fds(requests, 1, 2)
        if len(pipes) != 2:
            return
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(pipes[0], 0)
            os.dup2(pipes[1], 1)
            os.closerange(3, 64)
            os.setsid()
            try:
                worker.main()
            finally:
                # As the end of an interpreter, without what is the server's own.
                sys.stdout.flush()
                os._exit(0)
        handle = os.pidfd_open(child)
        socket.send_fds(requests, [b"x"], [handle])
        for descriptor in (*pipes, handle):
            os.close(descriptor)


if __name__ == "__main__":
    main()
