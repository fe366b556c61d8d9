# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the server says about itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from genai_iface.serving._service import Service

__all__ = ["about_router"]


def about_router(service: Service) -> APIRouter:
    """The routes /v1/models, /health, /ready and /metrics."""
    router = APIRouter()
    context = service.scheduler.capacity

    def described(name: str) -> dict[str, Any]:
        created = service.created
        return {"id": name, "object": "model", "created": created, "owned_by": "genai-iface", "max_model_len": context}

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in service.settings.names]}

    @router.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return described(name)

    @router.get("/health")
    async def health() -> JSONResponse:
        is_alive = service.scheduler.is_open
        return JSONResponse({"status": "ok" if is_alive else "failed"}, status_code=200 if is_alive else 503)

    @router.get("/ready")
    async def ready() -> JSONResponse:
        is_ready = service.scheduler.is_open and not service.is_stopping
        return JSONResponse({"status": "ready" if is_ready else "stopping"}, status_code=200 if is_ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
