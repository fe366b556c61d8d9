# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The application: routes, and how errors are told."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

import genai_iface
from genai_iface.serving._service import ClientGone, Service
from genai_iface.serving.endpoints.about import about_router
from genai_iface.serving.endpoints.chat import chat_router
from genai_iface.serving.endpoints.completions import completions_router
from genai_iface.serving.endpoints.responses import responses_router
from genai_iface.serving.endpoints.streams import GONE_STATUS
from genai_iface.serving.operations.gate import Gate
from genai_iface.serving.operations.keys import ApiKeys
from genai_iface.serving.operations.logs import LOGGER
from genai_iface.serving.protocol.errors import ApiError

__all__ = ["make_app"]

_MAX_SHOWN = 300
_NO_JSON = "The body is not JSON, or holds what no request needs. Send one JSON object in UTF-8, as application/json."
_PATHS = frozenset(
    {"/health", "/metrics", "/ready", "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/responses"}
)
_CODES = {404: "not_found", 405: "method_not_allowed"}


def make_app(service: Service) -> Gate:
    """The application of a service, behind its gate."""
    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(
        title="genai-iface",
        version=genai_iface.__version__,
        docs_url=None,
        redoc_url=None,
        # FastAPI reports to OpenTelemetry; only a program that sets that up itself gets spans and metrics.
        telemetry={"auto_configure": False, "logs": False},
    )
    told = {"description": "Refused, in the form of OpenAI's API"}
    documented: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 404, 413, 429, 500, 503), told)
    for router in (about_router, completions_router, chat_router, responses_router):
        app.include_router(router(service), responses=documented)
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(RequestValidationError, _tell_validation)
    app.add_exception_handler(AnyHTTPException, _tell_http)
    app.add_exception_handler(ClientGone, _tell_nobody)
    app.add_exception_handler(Exception, _tell_fault)
    return Gate(
        app,
        keys=ApiKeys(service.settings.api_keys),
        max_body_bytes=service.settings.max_body_bytes,
        metrics=service.metrics,
        known_paths=_PATHS,
    )


async def _tell(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - for the type checker
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _tell_validation(request: Request, error: Exception) -> Response:
    """The first fault, with its field."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    faults = error.errors()
    # Of a field that may be several things each is complained about; what is unknown is the likeliest mistake.
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    name = _field_of(first, error.body)
    if first["type"] == "extra_forbidden":
        message = f"{name} is not supported. Leave it out."
    elif first["type"] == "json_invalid":
        name, message = None, _NO_JSON
    else:
        message = f"{name or 'The body'} is not legal: {first['msg'][:_MAX_SHOWN]}."
    return await _tell(request, ApiError(400, message, param=name))


def _field_of(fault: Any, body: Any) -> str | None:
    """The dotted name of the field: what pydantic adds for the members of unions is no part of the request."""
    path: list[str] = []
    parts = fault["loc"][1:]
    for at, part in enumerate(parts):
        is_last = at == len(parts) - 1
        is_index = isinstance(body, list) and isinstance(part, int) and part < len(body)
        if is_index or (isinstance(body, dict) and part in body):
            body = body[part]
        elif not (is_last and fault["type"] == "missing"):
            continue
        path.append(str(part))
    return ".".join(path) or None


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | AnyHTTPException)  # noqa: S101 - for the type checker
    code = _CODES.get(error.status_code)
    if error.status_code == 400:
        # FastAPI's own, for what Python's reader of JSON gives up on: bytes that are no UTF-8, depth, endless numbers.
        return await _tell(request, ApiError(400, _NO_JSON))
    where = f": {request.method} {request.url.path}. GET /openapi.json lists what there is." if code is not None else ""
    told = ApiError(
        error.status_code, f"{error.detail}{where}", code="request_too_large" if error.status_code == 413 else code
    )
    return JSONResponse(told.body, status_code=told.status, headers=error.headers)


async def _tell_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=GONE_STATUS)


async def _tell_fault(request: Request, error: Exception) -> Response:
    LOGGER.error("fault", exc_info=error, extra={"request_id": request.scope.get("state", {}).get("request_id")})
    return await _tell(request, ApiError(500, "The server has a fault; its log says more."))
