# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One turn of a conversation, for whichever route: from messages and tools to what the model says, piece by piece."""

from __future__ import annotations

import secrets
import string
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request

from genai_iface.results import Chunk, FinishReason, TokenLogprob
from genai_iface.serving._service import Job, Service, Wanted
from genai_iface.serving.output.events import Call, Content, Found, Reasoning
from genai_iface.serving.output.forced import ForcedParser
from genai_iface.serving.protocol.errors import GRAMMARS, invalid
from genai_iface.serving.protocol.tools import forced_schema

__all__ = ["Asked", "Piece", "Turn", "new_call_id"]

# Mistral's templates demand nine letters and digits; nobody else demands anything.
_ID_LETTERS, _ID_LENGTH = string.ascii_letters + string.digits, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a route has read from its request.

    Attributes:
        messages: As the template reads them.
        tools: As the template reads them.
        choice: "auto", "none", "required" or "function".
        function: The name, if one is demanded.
        parallel: Whether there may be several calls.
        variables: Further ones of the template.
        overrides: Fields of ``GenerationConfig``.
        names: For those fields the names that the request gave them.
        n: Answers.
        skip_special_tokens: What the client wants; None for what the model's form needs.
        priority: As of ``Scheduler.submit``.
    """

    messages: Sequence[Mapping[str, Any]]
    overrides: Mapping[str, Any]
    names: Mapping[str, str]
    tools: Sequence[dict[str, Any]] = ()
    choice: str = "auto"
    function: str | None = None
    parallel: bool = True
    variables: Mapping[str, Any] | None = None
    n: int = 1
    skip_special_tokens: bool | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What a chunk has brought.

    Attributes:
        found: Content, reasoning, calls; perhaps none yet.
        logprobs: Of the tokens of the chunk.
        finish_reason: On the last one.
    """

    found: tuple[Found, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None


class _Parser(Protocol):
    def push(self, text: str) -> list[Found]: ...

    def finish(self) -> list[Found]: ...

    @property
    def is_reasoning(self) -> bool: ...


class Turn:
    """The answers of one turn. Made by ``begin``."""

    def __init__(self, service: Service, job: Job, parsers: Sequence[_Parser | None], *, with_calls: bool) -> None:
        self._service = service
        self.job = job
        self._parsers = parsers
        self._with_calls = with_calls
        self._num_reasoning_tokens = 0

    @property
    def usage(self) -> dict[str, Any]:
        """Of the job, and how many of its tokens were reasoning, its opening marks included."""
        return {**self.job.usage, "completion_tokens_details": {"reasoning_tokens": self._num_reasoning_tokens}}

    @classmethod
    async def begin(cls, service: Service, asked: Asked) -> Turn:
        """Renders the conversation and gives its answers their places.

        Raises:
            ApiError: Something about it is not legal, or there is no place.
        """
        overrides = dict(asked.overrides)
        schema = forced_schema(asked.choice, asked.function, list(asked.tools), parallel=asked.parallel)
        if schema is not None:
            if overrides.keys() & set(GRAMMARS):
                message = "tool_choice demands a call, and there is another rule for the output. Give one of them."
                raise invalid("tool_choice", message)
            overrides["json_schema"] = schema
        shown = () if asked.choice == "none" else asked.tools
        text, tokens = await service.render(
            asked.messages, shown, asked.variables or {}, param=asked.names.get("prompt")
        )
        form = service.format
        with_calls = bool(shown)

        def parser() -> _Parser | None:
            return ForcedParser() if schema is not None else form.parser(with_calls=with_calls, prompt=text)

        parsers = [parser() for _ in range(asked.n)]
        needs_marks = form.needs_special_tokens and schema is None and parsers[0] is not None
        skips = not needs_marks if asked.skip_special_tokens is None else asked.skip_special_tokens
        names = {**asked.names, "json_schema": "tools" if schema is not None else asked.names.get("json_schema", "")}
        wanted = Wanted(
            [tokens],
            overrides,
            asked.n,
            names,
            is_answer=True,
            skip_special_tokens=skips,
            priority=asked.priority,
        )
        return cls(service, await service.start(wanted), parsers, with_calls=with_calls)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(Which answer, what came) until all have ended.

        Raises:
            ApiError: The generation failed.
        """
        async for at, chunk in self.job.chunks():
            yield at, self._piece(at, chunk)

    async def whole(self, request: Request) -> list[list[Piece]]:
        """All pieces of each answer.

        Raises:
            ClientGone: Nobody waits for them any more.
            ApiError: The generation failed.
        """
        collected = await self._service.whole(request, self.job)
        return [[self._piece(at, chunk) for chunk in chunks] for at, chunks in enumerate(collected)]

    def _piece(self, at: int, chunk: Chunk) -> Piece:
        parser = self._parsers[at]
        if parser is None:
            found: list[Found] = [Content(chunk.text)] if chunk.text else []
        else:
            found = parser.push(chunk.text)
            if chunk.finish_reason is not None:
                found += parser.finish()
            # A token that ends the reasoning and begins the content counts to the former.
            if parser.is_reasoning or any(isinstance(one, Reasoning) for one in found):
                self._num_reasoning_tokens += len(chunk.token_ids)
        if not self._with_calls:
            # Nobody has asked for calls; what the model says is not lost.
            found = [Content(one.arguments) if isinstance(one, Call) else one for one in found]
        return Piece(tuple(found), chunk.logprobs or (), chunk.finish_reason)


def new_call_id() -> str:
    """An id for a call."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
