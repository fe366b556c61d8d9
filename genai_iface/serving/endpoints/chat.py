# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""/v1/chat/completions: conversations."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from genai_iface.results import TokenLogprob
from genai_iface.serving._service import Service
from genai_iface.serving.endpoints.streams import finish_of, stream_answer
from genai_iface.serving.endpoints.turn import Asked, Piece, Turn, new_call_id
from genai_iface.serving.output.events import Call, Content, Found, Reasoning
from genai_iface.serving.protocol.chat import ChatRequest
from genai_iface.serving.protocol.logprobs import chat_logprobs
from genai_iface.serving.protocol.sse import DONE, event
from genai_iface.serving.protocol.tools import ToolChoice, tool_schemas

__all__ = ["chat_router"]

_NAMES = {
    "prompt": "messages",
    "stop_strings": "stop",
    "min_new_tokens": "min_tokens",
    "json_schema": "response_format",
}


def chat_router(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def answer(body: ChatRequest, request: Request) -> Response:
        service.check_model(body.model)
        turn = await Turn.begin(service, _asked(body))
        written = _Answer(service, body, turn)
        if body.stream:
            return stream_answer(request, turn.job, written.events())
        return JSONResponse(written.whole(await turn.whole(request)))

    return router


def _asked(body: ChatRequest) -> Asked:
    given = body.tool_choice or "auto"
    choice, function = ("function", given.function.name) if isinstance(given, ToolChoice) else (given, None)
    limit = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
    return Asked(
        messages=[message.for_template() for message in body.messages],
        tools=tool_schemas([tool.function for tool in body.tools or ()]),
        choice=choice,
        function=function,
        parallel=body.parallel_tool_calls is not False,
        variables=body.template_variables(),
        overrides=body.overrides(),
        names={
            **{name: name for name in body.model_fields_set},
            **_NAMES,
            "max_new_tokens": limit,
            **body.rule_names(),
        },
        n=body.n or 1,
        skip_special_tokens=body.skip_special_tokens,
        priority=body.priority,
    )


class _Answer:
    """The answer to one request."""

    def __init__(self, service: Service, body: ChatRequest, turn: Turn) -> None:
        self._service = service
        self._body = body
        self._turn = turn
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}

    def whole(self, answers: list[list[Piece]]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._whole_choice(index, pieces) for index, pieces in enumerate(answers)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._turn.usage}

    def _whole_choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        found = [one for piece in pieces for one in piece.found]
        calls = [one for one in found if isinstance(one, Call)]
        content = "".join(one.text for one in found if isinstance(one, Content))
        reasoning = "".join(one.text for one in found if isinstance(one, Reasoning))
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [_call(one) for one in calls]
        reason, detail = finish_of(pieces, has_calls=bool(calls))
        tokens = [token for piece in pieces for token in piece.logprobs]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(tokens),
            "finish_reason": reason,
            "stop_reason": detail,
        }

    async def events(self) -> AsyncIterator[bytes]:
        """The answer in pieces."""
        count = len(self._turn.job.requests)
        for index in range(count):
            yield self._event(index, {"role": "assistant", "content": "", "refusal": None})
        num_calls, owed = [0] * count, [[] for _ in range(count)]  # type: tuple[list[int], list[list[TokenLogprob]]]
        async for index, piece in self._turn.pieces():
            owed[index] += piece.logprobs
            for one in piece.found:
                tokens, owed[index] = owed[index], []
                yield self._event(index, _delta(one, num_calls[index]), tokens)
                num_calls[index] += isinstance(one, Call)
            if piece.finish_reason is not None:
                ending = finish_of([piece], has_calls=num_calls[index] > 0)
                yield self._event(index, {}, owed[index], ending)
        if self._body.wants_usage:
            yield event({**self._chunk_head, "choices": [], "usage": self._turn.usage})
        yield DONE

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        tokens: Sequence[TokenLogprob] = (),
        ending: tuple[str | None, str | None] = (None, None),
    ) -> bytes:
        logprobs = self._logprobs(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ending[0]}
        if ending[1] is not None:
            choice["stop_reason"] = ending[1]
        usage = {"usage": None} if self._body.wants_usage else {}
        return event({**self._chunk_head, "choices": [choice], **usage})

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._service.pipeline.tokenizer, tokens) if self._body.logprobs else None


def _delta(found: Found, num_calls: int) -> dict[str, Any]:
    if isinstance(found, Call):
        return {"tool_calls": [{"index": num_calls, **_call(found)}]}
    return {"reasoning_content" if isinstance(found, Reasoning) else "content": found.text}


def _call(found: Call) -> dict[str, Any]:
    function = {"name": found.name, "arguments": found.arguments}
    return {"id": new_call_id(), "type": "function", "function": function}
