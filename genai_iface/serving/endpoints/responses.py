# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""/v1/responses: conversations in OpenAI's newer form, without anything that is kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from genai_iface.config import GenerationConfig
from genai_iface.serving._service import Service
from genai_iface.serving.endpoints.streams import stream_answer
from genai_iface.serving.endpoints.turn import Asked, Piece, Turn, new_call_id
from genai_iface.serving.output.events import Call, Content, Found, Reasoning
from genai_iface.serving.protocol.errors import ApiError
from genai_iface.serving.protocol.responses import ResponseRequest
from genai_iface.serving.protocol.sse import event
from genai_iface.serving.protocol.tools import Function, tool_schemas

__all__ = ["responses_router"]

_NAMES = {
    "prompt": "input",
    "min_new_tokens": "min_tokens",
    "max_new_tokens": "max_output_tokens",
    "json_schema": "text.format",
}


def responses_router(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/responses")
    async def respond(body: ResponseRequest, request: Request) -> Response:
        service.check_model(body.model)
        turn = await Turn.begin(service, _asked(body))
        written = _Response(body, turn, service.pipeline.generation_config)
        if body.stream:
            return stream_answer(request, turn.job, written.events())
        (pieces,) = await turn.whole(request)
        for piece in pieces:
            # The events are what fills the answer.
            for _ in written.take(piece):
                pass
        return JSONResponse(written.described())

    return router


def _asked(body: ResponseRequest) -> Asked:
    given = body.tool_choice or "auto"
    choice, function = (given, None) if isinstance(given, str) else ("function", given.name)
    effort = None if body.reasoning is None else body.reasoning.effort
    return Asked(
        messages=body.messages(),
        tools=tool_schemas(body.functions),
        choice=choice,
        function=function,
        parallel=body.parallel_tool_calls is not False,
        variables={} if effort is None else {"reasoning_effort": effort},
        overrides=body.overrides(),
        names={**{name: name for name in body.model_fields_set}, **_NAMES, **body.rule_names()},
        skip_special_tokens=body.skip_special_tokens,
        priority=body.priority,
    )


class _Response:
    """One answer, which pieces fill.

    Args:
        body: What was asked.
        turn: Gives the pieces.
        defaults: What counts where the request says nothing.
    """

    def __init__(self, body: ResponseRequest, turn: Turn, defaults: GenerationConfig) -> None:
        self._body = body
        self._defaults = defaults
        self._turn = turn
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._completed: int | None = None
        self._status = "in_progress"
        self._incomplete: dict[str, str] | None = None
        self._error: dict[str, Any] | None = None
        self._output: list[dict[str, Any]] = []
        self._is_writing = False
        self._number = -1

    def described(self) -> dict[str, Any]:
        """The object as it is now."""
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._completed,
            "status": self._status,
            "error": self._error,
            "incomplete_details": self._incomplete,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": self._output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "background": False,
            "service_tier": "default",
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
            "max_tool_calls": None,
            "temperature": self._setting("temperature"),
            "top_p": self._setting("top_p"),
            "presence_penalty": self._setting("presence_penalty"),
            "frequency_penalty": self._setting("frequency_penalty"),
            "top_logprobs": 0,
            "text": _text_settings(body),
            "tool_choice": _choice(body),
            "tools": [{"type": "function", **_function(tool)} for tool in body.functions],
            "truncation": "disabled",
            "usage": None if self._status == "in_progress" else self._usage(),
            "metadata": body.metadata or {},
        }

    def _setting(self, name: str) -> Any:
        given = getattr(self._body, name, None)
        return getattr(self._defaults, name) if given is None else given

    async def events(self) -> AsyncIterator[bytes]:
        """The answer in pieces."""
        yield self._event("response.created", response=self.described())
        yield self._event("response.in_progress", response=self.described())
        try:
            async for _, piece in self._turn.pieces():
                for name, fields in self.take(piece):
                    yield self._event(name, **fields)
        except ApiError as error:
            self._status = "failed"
            self._error = {"code": error.code or "server_error", "message": error.message}
            yield self._event("response.failed", response=self.described())
            return
        name = "response.completed" if self._status == "completed" else "response.incomplete"
        yield self._event(name, response=self.described())

    def take(self, piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
        """Takes a piece, and gives the names and fields of the events that it makes."""
        for found in piece.found:
            if isinstance(found, Call):
                yield from self._close_item()
                yield from self._add_call(found)
            else:
                yield from self._write(found)
        if piece.finish_reason is not None:
            is_complete = piece.finish_reason == "stop"
            self._incomplete = None if is_complete else {"reason": "max_output_tokens"}
            yield from self._close_item("completed" if is_complete else "incomplete")
            self._status = "completed" if is_complete else "incomplete"
            self._completed = int(time.time()) if is_complete else None

    def _write(self, found: Found) -> Iterator[tuple[str, dict[str, Any]]]:
        assert not isinstance(found, Call)  # noqa: S101 - for the type checker
        kind = "reasoning" if isinstance(found, Reasoning) else "message"
        if not self._is_writing or self._output[-1]["type"] != kind:
            yield from self._close_item()
            yield from self._open_item(kind)
        item, at = self._output[-1], len(self._output) - 1
        item["content"][0]["text"] += found.text
        where = {"item_id": item["id"], "output_index": at, "content_index": 0, "delta": found.text}
        if isinstance(found, Content):
            yield "response.output_text.delta", {**where, "logprobs": []}
        else:
            yield "response.reasoning_text.delta", where

    def _open_item(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        self._is_writing = True
        if kind == "message":
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item: dict[str, Any] = {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": kind,
                "role": "assistant",
                "status": "in_progress",
            }
        else:
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": f"rs_{uuid.uuid4().hex}", "type": kind, "summary": [], "status": "in_progress"}
        at = len(self._output)
        yield "response.output_item.added", {"output_index": at, "item": {**item, "content": []}}
        self._output.append({**item, "content": [part]})
        where = {"item_id": item["id"], "output_index": at, "content_index": 0}
        yield "response.content_part.added", {**where, "part": dict(part)}

    def _close_item(self, status: str = "completed") -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._is_writing:
            return
        self._is_writing = False
        item, at = self._output[-1], len(self._output) - 1
        item["status"] = status
        part = item["content"][0]
        where = {"item_id": item["id"], "output_index": at, "content_index": 0}
        if item["type"] == "message":
            yield "response.output_text.done", {**where, "text": part["text"], "logprobs": []}
        else:
            yield "response.reasoning_text.done", {**where, "text": part["text"]}
        yield "response.content_part.done", {**where, "part": dict(part)}
        yield "response.output_item.done", {"output_index": at, "item": item}

    def _add_call(self, found: Call) -> Iterator[tuple[str, dict[str, Any]]]:
        item = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "call_id": new_call_id(),
            "name": found.name,
            "arguments": "",
            "status": "in_progress",
        }
        at = len(self._output)
        yield "response.output_item.added", {"output_index": at, "item": dict(item)}
        where = {"item_id": item["id"], "output_index": at}
        yield "response.function_call_arguments.delta", {**where, "delta": found.arguments}
        item |= {"arguments": found.arguments, "status": "completed"}
        self._output.append(item)
        yield (
            "response.function_call_arguments.done",
            {**where, "name": found.name, "arguments": found.arguments},
        )
        yield "response.output_item.done", {"output_index": at, "item": item}

    def _usage(self) -> dict[str, Any]:
        usage = self._turn.usage
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": name, "sequence_number": self._number, **fields}, name)


def _choice(body: ResponseRequest) -> Any:
    given = body.tool_choice or "auto"
    return given if isinstance(given, str) else given.model_dump()


def _function(function: Function) -> dict[str, Any]:
    described = {"name": function.name, "description": function.description, "parameters": function.parameters}
    return {**described, "strict": None}


def _text_settings(body: ResponseRequest) -> dict[str, Any]:
    given = {} if body.text is None else body.text.model_dump(by_alias=True, exclude_none=True)
    return {"format": {"type": "text"}, **given}
