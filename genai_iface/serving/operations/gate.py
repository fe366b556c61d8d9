# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every request passes first: its id, its size, its key; and what is logged and counted of it last."""

from __future__ import annotations

import time
from typing import Any

from fastapi import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genai_iface.serving.operations.keys import ApiKeys
from genai_iface.serving.operations.logs import LOGGER, request_id_of
from genai_iface.serving.operations.metrics import Metrics
from genai_iface.serving.protocol.errors import ApiError

__all__ = ["Gate"]

_DRAINED = 4
"""A body that is longer than it may be is thrown away up to so many times the limit, then the connection is closed."""


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind it.
        keys: Who is let in.
        max_body_bytes: Largest body.
        metrics: Counts.
        known_paths: Paths that are counted by name; all others are one.
    """

    def __init__(
        self, app: ASGIApp, *, keys: ApiKeys, max_body_bytes: int, metrics: Metrics, known_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._known_paths = known_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request_id = request_id_of(request.headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._pass(request, _Limited(receive, self._too_large(), self._max_body_bytes), send_with_id)
        finally:
            path = scope["path"] if scope["path"] in self._known_paths else "other"
            self._metrics.count_request(path, status)
            details: dict[str, Any] = {"request_id": request_id, "method": request.method, "path": scope["path"]}
            details |= {"status": status, "seconds": round(time.perf_counter() - started, 6)}
            LOGGER.info("request", extra=details)

    async def _pass(self, request: Request, receive: _Limited, send: Send) -> None:
        error = self._judge(request)
        if error is None:
            await self._app(request.scope, receive, send)
            return
        answer = JSONResponse(error.body, status_code=error.status, headers={**error.headers, "Connection": "close"})
        await answer(request.scope, receive, send)

    def _judge(self, request: Request) -> ApiError | None:
        if request.url.path.startswith("/v1") and not self._keys.let_in(request.headers.get("authorization")):
            message = "The API key is missing or wrong. Send it as: Authorization: Bearer KEY."
            return ApiError(401, message, code="invalid_api_key")
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > (1 + _DRAINED) * self._max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> ApiError:
        message = f"The request has more than {self._max_body_bytes} bytes. Send a shorter one."
        return ApiError(413, message, code="request_too_large")


class _Limited:
    """``receive`` that ends a body which is longer than it may be, whatever its headers say."""

    def __init__(self, receive: Receive, error: ApiError, most: int) -> None:
        self._receive = receive
        self._error = error
        self._left = most
        self._drain = _DRAINED * most

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            # What is little more is read to its end, for a client that still sends does not read the answer.
            while -self._drain < self._left < 0 and message.get("more_body"):
                message = await self._receive()
                self._left -= len(message.get("body", b""))
            if self._left < 0:
                # Of all exceptions FastAPI lets this one through while it reads a body.
                raise HTTPException(self._error.status, self._error.message, {"Connection": "close"})
        return message
