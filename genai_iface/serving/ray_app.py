# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The server on a cluster: an application for Ray Serve. Needs the extras "serve" and "ray".

    RAY_USAGE_STATS_ENABLED=0 serve run genai_iface.serving.ray_app:build model=my-model max_replicas=4

A front takes requests from Ray's proxy and hands each to the replica that has probably run most of its prompt. A
replica is one pipeline behind the application that ``genai-iface serve`` has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message

from genai_iface.errors import BackendError
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.serving._app import make_app
from genai_iface.serving._service import Service
from genai_iface.serving.protocol.errors import ApiError
from genai_iface.serving.scale.affinity import prefix_keys
from genai_iface.serving.scale.forward import Forwarded, ReplicaLost, answers_of, forward
from genai_iface.serving.scale.router import PrefixRouter
from genai_iface.serving.settings import ServerSettings, read_api_keys

__all__ = ["RayArguments", "build"]

_SHUTDOWN_MARGIN = 5.0
_HEALTH_PERIOD = 5.0
_LOOK_BACK = 30.0

Positive = Annotated[int, Field(ge=1)]


class RayArguments(BaseModel):
    """What ``serve run`` and a Serve config file may say, as KEY=VALUE.

    Attributes:
        model: A folder that every node sees, or an id; None for the embedded model.
        name: What clients call the model; None for ``model`` itself, or its last part if it is a path.
        backend: A registered backend.
        device: One of its devices.
        num_cpus: CPUs of each replica; a backend that takes ``num_threads`` gets as many threads.
        num_gpus: GPUs of each replica.
        min_replicas: Fewest replicas.
        max_replicas: Most replicas; more than ``min_replicas`` lets Ray add and remove them by the length of the queue.
        target_requests: Requests for each replica, running or waiting, that Ray aims at; None for ``slots``.
        upscale_seconds: For so long there are more before Ray adds replicas.
        downscale_seconds: For so long there are fewer before it removes some.
        fronts: Replicas of the front.
        slots: As of ``ServerSettings``, and so are the following.
        max_queue: For each replica.
        max_waiting: Most requests that wait in a front for a replica to have room; more get the status 429.
        router_blocks: Blocks of 256 characters that a router remembers of each replica.
        router_slack: Requests by which a replica may be busier than the idlest one and still get its prefixes.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    name: str | None = None
    backend: str = "ort"
    device: str | None = None
    num_cpus: Annotated[float, Field(gt=0)] = 1
    num_gpus: Annotated[float, Field(ge=0)] = 0
    min_replicas: Positive = 1
    max_replicas: Positive | None = None
    target_requests: Annotated[float, Field(gt=0)] | None = None
    upscale_seconds: Annotated[float, Field(gt=0)] = 30.0
    downscale_seconds: Annotated[float, Field(gt=0)] = 600.0
    fronts: Positive = 1
    slots: Positive = 8
    capacity: Positive | None = None
    token_budget: Positive = 256
    max_queue: Annotated[int, Field(ge=0)] = 64
    max_waiting: Annotated[int, Field(ge=0)] = 1024
    max_body_bytes: Positive = 4 * 2**20
    request_seconds: float | None = None
    drain_seconds: float = 30.0
    tool_parser: str = "auto"
    prefix_bytes: Annotated[int, Field(ge=0)] = 2**30
    api_key_file: str | None = None
    router_blocks: Positive = 4096
    router_slack: Annotated[int, Field(ge=0)] = 4

    def settings(self) -> ServerSettings:
        """How each replica serves; it listens at no port of its own."""
        name = self.name or ("embedded" if self.model is None else Path(self.model).name)
        keys = () if self.api_key_file is None else read_api_keys(self.api_key_file)
        shared = ("slots", "capacity", "max_queue", "max_body_bytes", "request_seconds", "drain_seconds")
        fields = {field: getattr(self, field) for field in (*shared, "tool_parser", "prefix_bytes")}
        budget = max(self.token_budget, self.slots)
        return ServerSettings(model_name=name, api_keys=keys, token_budget=budget, **fields)


class _Replica:
    """One pipeline. Its requests are those of HTTP, its answers ASGI's messages."""

    def __init__(self, arguments: RayArguments) -> None:
        options = {"num_threads": max(int(arguments.num_cpus), 1)} if arguments.backend == "ort" else {}
        self._pipeline = TextGenerationPipeline(
            arguments.model, backend=arguments.backend, device=arguments.device, options=options
        )
        self._service = Service(self._pipeline, arguments.settings())
        self._app = make_app(self._service)

    async def answer(self, request: Forwarded) -> AsyncIterator[Message]:
        """Streams the answer."""
        async for message in answers_of(self._app, request):
            yield message

    def check_health(self) -> None:
        """Ray replaces a replica whose scheduler has failed."""
        if not self._service.scheduler.is_open:
            raise BackendError("The scheduler of this replica has failed", remedy="Its log says why.")

    def __del__(self) -> None:
        # A constructor that failed has less to close.
        for name in ("_service", "_pipeline"):
            if name in self.__dict__:
                self.__dict__[name].close()


class _ReplicaStream:
    """The messages of a replica, whose loss has one name."""

    def __init__(self, responses: Any) -> None:
        self._responses = responses

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        try:
            message: Message = await anext(self._responses)
        except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
            raise ReplicaLost(str(error)) from error
        except BackPressureError as error:
            told = "All replicas are busy, and the queue is full. Try again later."
            raise ApiError(429, told, code="queue_full", retry_after=1) from error
        return message

    def cancel(self) -> None:
        self._responses.cancel()


class _Front:
    """Reads requests, and hands them on."""

    def __init__(self, replicas: DeploymentHandle, max_body_bytes: int) -> None:
        self._replicas = replicas.options(stream=True, method_name="answer")
        self._max_body_bytes = max_body_bytes

    async def __call__(self, request: Request) -> Response:
        """The answer of a replica."""
        try:
            return await self._forward(request)
        except ApiError as error:
            return JSONResponse(error.body, status_code=error.status, headers=error.headers)

    async def _forward(self, request: Request) -> Response:
        if request.url.path.endswith("/metrics"):
            # One replica's would be taken for all of them.
            raise ApiError(404, "Ray exports the metrics of a cluster; see its documentation on monitoring Serve.")
        body = await self._read(request)
        asked = Forwarded.of(request.scope, body, prefix_keys(body))
        answer = await forward(asked, lambda one: _ReplicaStream(self._replicas.remote(one)))
        response = StreamingResponse(answer.body, status_code=answer.status)
        response.raw_headers = answer.headers
        return response

    async def _read(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > self._max_body_bytes:
                told = f"The request has more than {self._max_body_bytes} bytes. Send a shorter one."
                raise ApiError(413, told, code="request_too_large")
        return b"".join(parts)


def build(arguments: RayArguments) -> serve.Application:
    """The application, for ``serve run`` and Serve config files.

    Raises:
        InvalidInputError: An argument is out of range, or the keys cannot be read.
    """
    settings = arguments.settings()
    most = arguments.max_replicas or arguments.min_replicas
    scaling: dict[str, Any] = {"num_replicas": arguments.min_replicas}
    if most > arguments.min_replicas:
        target = arguments.target_requests or float(settings.slots)
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=arguments.min_replicas,
                max_replicas=most,
                target_ongoing_requests=target,
                upscale_delay_s=arguments.upscale_seconds,
                downscale_delay_s=arguments.downscale_seconds,
                # Ray looks at the mean of a while, which is no longer than what it waits.
                look_back_period_s=min(arguments.upscale_seconds, _LOOK_BACK),
                metrics_interval_s=min(arguments.upscale_seconds, _LOOK_BACK) / 3,
            )
        }
    replica = serve.deployment(
        name="Replica",
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        max_ongoing_requests=settings.slots + settings.max_queue,
        max_queued_requests=arguments.max_waiting,
        health_check_period_s=_HEALTH_PERIOD,
        graceful_shutdown_timeout_s=settings.drain_seconds + _SHUTDOWN_MARGIN,
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,
            request_router_kwargs={"max_blocks": arguments.router_blocks, "slack": arguments.router_slack},
        ),
        **scaling,
    )(_Replica)
    front = serve.deployment(
        name="Front",
        num_replicas=arguments.fronts,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=arguments.max_waiting + most * (settings.slots + settings.max_queue),
    )(_Front)
    return front.bind(replica.bind(arguments), settings.max_body_bytes)
