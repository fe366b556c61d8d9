# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""/v1/completions: texts that go on."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from genai_iface.results import Chunk
from genai_iface.serving._service import Job, Service, Wanted
from genai_iface.serving.endpoints.streams import finish_of, stream_answer
from genai_iface.serving.protocol.completion import CompletionRequest
from genai_iface.serving.protocol.logprobs import completion_logprobs
from genai_iface.serving.protocol.sse import DONE, event

__all__ = ["completions_router"]

_NAMES = {"prompt": "prompt", "max_new_tokens": "max_tokens", "stop_strings": "stop", "min_new_tokens": "min_tokens"}


def completions_router(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        service.check_model(body.model)
        wanted = Wanted(
            body.prompts,
            body.overrides(),
            body.n or 1,
            {**{name: name for name in body.model_fields_set}, **_NAMES, **body.rule_names()},
            skip_special_tokens=body.skip_special_tokens is not False,
            priority=body.priority,
        )
        job = await service.start(wanted)
        answer = _Answer(service, body, job)
        if body.stream:
            return stream_answer(request, job, answer.events())
        return JSONResponse(answer.whole(await service.whole(request, job)))

    return router


class _Answer:
    """The answer to one request."""

    def __init__(self, service: Service, body: CompletionRequest, job: Job) -> None:
        self._service = service
        self._body = body
        self._job = job
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }

    def whole(self, collected: list[list[Chunk]]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = []
        for index, chunks in enumerate(collected):
            text = "".join(chunk.text for chunk in chunks)
            choices.append(self._choice(index, text, chunks, 0, chunks))
        return {**self._head, "choices": choices, "usage": self._job.usage}

    async def events(self) -> AsyncIterator[bytes]:
        """The answer in pieces."""
        lengths = [0] * len(self._job.requests)
        async for index, chunk in self._job.chunks():
            ending = [chunk] if chunk.finish_reason is not None else None
            choice = self._choice(index, chunk.text, [chunk], lengths[index], ending)
            lengths[index] += len(chunk.text)
            yield event({**self._head, "choices": [choice], **self._no_usage()})
        if self._body.wants_usage:
            yield event({**self._head, "choices": [], "usage": self._job.usage})
        yield DONE

    def _no_usage(self) -> dict[str, None]:
        return {"usage": None} if self._body.wants_usage else {}

    def _choice(
        self, index: int, text: str, chunks: list[Chunk], offset: int, ending: list[Chunk] | None
    ) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs is not None:
            tokens = [token for chunk in chunks for token in chunk.logprobs or ()]
            logprobs = completion_logprobs(self._service.pipeline.tokenizer, tokens, offset)
        reason, detail = finish_of(ending) if ending is not None else (None, None)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason, "stop_reason": detail}
