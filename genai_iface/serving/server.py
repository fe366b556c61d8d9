# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``Server``: listens, and stops in good order."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Any, Self

import uvicorn

from genai_iface.errors import InvalidInputError, OutputError
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.serving._app import make_app
from genai_iface.serving._service import Service
from genai_iface.serving.operations.logs import LOGGER
from genai_iface.serving.settings import ServerSettings

__all__ = ["Server"]

# After the answers were cut their last events are sent, at most for so long.
_LAST_WORDS = 5.0
_BACKLOG = 2048


class Server:
    """Serves a pipeline over HTTP.

    The port is taken at once, so that ``url`` is true, and requests are answered from ``start`` or ``run`` on. As a
    context manager it starts in a thread of its own and stops at the end.

    Args:
        pipeline: What is served; it stays open.
        settings: How.

    Raises:
        OutputError: The address cannot be listened at.
        InvalidInputError: There is no such tool parser.
        UnsupportedCapabilityError: The model cannot serve several requests at once.
    """

    def __init__(self, pipeline: TextGenerationPipeline, settings: ServerSettings | None = None) -> None:
        self.settings = settings or ServerSettings()
        self._socket = _listen(self.settings.host, self.settings.port)
        self._address: tuple[Any, ...] = self._socket.getsockname()
        try:
            self._service = Service(pipeline, self.settings)
        except BaseException:
            self._socket.close()
            raise
        config = uvicorn.Config(
            make_app(self._service),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(self.settings.drain_seconds + _LAST_WORDS),
        )
        self._server = _Stopping(config, self._service)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port, also where a free one was asked for."""
        return int(self._address[1])

    @property
    def url(self) -> str:
        """Where the server is."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def app(self) -> Any:
        """The ASGI application, for servers of somebody else."""
        return self._server.config.app

    def run(self) -> None:
        """Serves until Ctrl-C, SIGTERM or ``stop``."""
        LOGGER.info("listening", extra={"url": self.url, "models": list(self.settings.names)})
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._service.close()
            self._socket.close()

    def start(self) -> None:
        """Serves in a thread of its own.

        Raises:
            InvalidInputError: It was started before.
        """
        if self._thread is not None:
            raise InvalidInputError("The server was started before", remedy="Make a new one.")
        self._thread = threading.Thread(target=self.run, name="genai-iface-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Lets nobody in any more, answers end for up to ``drain_seconds``, and stops. A second call does nothing."""
        self._service.stop()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        else:
            self._service.close()
            self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class _Stopping(uvicorn.Server):
    """Uvicorn's server, which ends running answers in good order."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop()
        loop = asyncio.get_running_loop()
        # Each answer that is cut says so to its client.
        cut = loop.call_later(self._service.settings.drain_seconds, self._service.scheduler.cancel)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        # A name; only the first of its addresses is listened at.
        family = socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Who connects before the first answer waits instead of being refused.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OutputError(
            f"The server cannot listen at {host!r}, port {port}: {error.strerror or error}",
            remedy="Choose another port, or 0 for a free one, and an address of this machine.",
        ) from error
    return listener
