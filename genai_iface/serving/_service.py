# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the routes share: the model's scheduler, who may have a place in it, and how a conversation becomes a prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from genai_iface.errors import GenAIError
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.results import Chunk
from genai_iface.serving._feed import feed
from genai_iface.serving.operations.logs import LOGGER
from genai_iface.serving.operations.metrics import Metrics
from genai_iface.serving.output.formats import Format, choose_format
from genai_iface.serving.output.templates import format_of_template
from genai_iface.serving.protocol.errors import GRAMMARS, ApiError, api_error_of
from genai_iface.serving.settings import ServerSettings

__all__ = ["ClientGone", "Job", "Service", "Wanted"]

_RETRY_SECONDS = 1
_LIMITS = frozenset({"max_new_tokens", "max_length"})
_MOST_COMPILING = 2
"""Threads that compile grammars at once. They come from a pool that everybody's requests need."""


class ClientGone(Exception):  # noqa: N818 - it is no error
    """Nobody waits for the answer any more."""


@runtime_checkable
class _ShowsTemplates(Protocol):
    def chat_template_text(self, name: str = "default", /) -> str: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one request asks of the model.

    Attributes:
        prompts: One or several, each of which gets ``n`` sequences.
        overrides: Fields of ``GenerationConfig``.
        n: Sequences of each prompt.
        names: For fields of ``GenerationConfig`` the names that the request gave them.
        is_answer: Whether the prompts are conversations.
        skip_special_tokens: Whether special tokens are left out of the text.
        priority: As of ``Scheduler.submit``.
    """

    prompts: Sequence[str | list[int]]
    overrides: Mapping[str, Any]
    n: int = 1
    names: Mapping[str, str] = field(default_factory=dict)
    is_answer: bool = False
    skip_special_tokens: bool = True
    priority: int = 0


class Job:
    """The sequences of one request, on their way.

    Args:
        service: Gets their places back.
        requests: The sequences: prompts in order, each with its ``n``.
        wanted: What was asked.
    """

    def __init__(self, service: Service, requests: Sequence[ScheduledRequest], wanted: Wanted) -> None:
        self._service = service
        self.requests = requests
        self._wanted = wanted
        self._is_open = True

    async def chunks(self, *, at_the_end: bool = False) -> AsyncIterator[tuple[int, Chunk]]:
        """(Which sequence, chunk) as they come. However it is left, the sequences end and their places are free.

        Args:
            at_the_end: Whether nobody wants a sequence's chunks before it has ended.

        Raises:
            ApiError: The generation failed, or the server stops.
        """
        try:
            async for at, chunk in feed(self.requests, at_the_end=at_the_end):
                if chunk.finish_reason == "cancelled":
                    message = "The server stops, and the answer is not complete. Send the request to another one."
                    raise ApiError(503, message, code="server_stopping", retry_after=_RETRY_SECONDS)
                yield at, chunk
        except GenAIError as error:
            told = api_error_of(error, self._wanted.names, self._wanted.overrides)
            if told.status >= 500:
                LOGGER.exception("generation failed")
            raise told from error
        finally:
            self.close()

    def close(self) -> None:
        """Ends what still goes on. A second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        for request in self.requests:
            request.close()
            self._service.metrics.count_sequence(request.metrics)
        self._service.give_back(len(self.requests))

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, as OpenAI's API counts them: a prompt counts once, however many sequences it has."""
        metrics = [request.metrics for request in self.requests]
        # Each prompt once; of its sequences the one that ran most of it.
        firsts = range(0, len(metrics), self._wanted.n)
        groups = [metrics[at : at + self._wanted.n] for at in firsts]
        prompt = sum(group[0].num_prompt_tokens for group in groups)
        cached = sum(min(one.num_reused_tokens for one in group) for group in groups)
        generated = sum(one.num_generated_tokens for one in metrics)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


class Service:
    """One model, served.

    Args:
        pipeline: The model; closing it is its owner's business.
        settings: How to serve.
    """

    def __init__(self, pipeline: TextGenerationPipeline, settings: ServerSettings) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self.created = int(time.time())
        self.format = self._choose_format()
        self.scheduler = pipeline.scheduler(
            slots=settings.slots,
            token_budget=max(settings.token_budget, settings.slots),
            capacity=settings.capacity,
            prefix_bytes=settings.prefix_bytes,
        )
        self._num_places = 0
        self._compiling = asyncio.Semaphore(_MOST_COMPILING)
        self.is_stopping = False
        read: dict[str, tuple[str, Callable[[], float]]] = {
            "running_sequences": ("Sequences that have a slot", lambda: self.scheduler.num_running),
            "waiting_sequences": ("Sequences that wait for a slot", lambda: self.scheduler.num_waiting),
            "slots": ("All slots", lambda: settings.slots),
            "kept_rows": ("Rows that finished sequences keep for their prefixes", lambda: self.scheduler.num_kept),
            "cache_bytes": ("Bytes of the cache", lambda: self.scheduler.cache_bytes),
        }
        self.metrics = Metrics(read)

    def _choose_format(self) -> Format:
        tokenizer = self.pipeline.tokenizer
        if self.settings.tool_parser == "auto":
            template = getattr(tokenizer, "response_template", None)
            form = format_of_template(template)
            if form is not None:
                return form
            if template is not None:
                LOGGER.warning("the folder's response_template is not understood; its chat template decides")
        template = ""
        if isinstance(tokenizer, _ShowsTemplates):
            template = tokenizer.chat_template_text() + tokenizer.chat_template_text("tool_use")
        return choose_format(self.settings.tool_parser, template)

    def close(self) -> None:
        """Ends all sequences."""
        self.scheduler.close()

    def stop(self) -> None:
        """Lets nobody in any more; what was let in goes on."""
        self.is_stopping = True

    @property
    def has_work(self) -> bool:
        """Whether somebody still waits for an answer."""
        return self._num_places > 0

    def check_model(self, name: str) -> None:
        """Refuses requests for another model.

        Raises:
            ApiError: 404.
        """
        if name not in self.settings.names:
            known = ", ".join(self.settings.names)
            message = f"The model {name[:200]!r} does not exist. This server has: {known}."
            raise ApiError(404, message, param="model", code="model_not_found")

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        *,
        param: str | None = None,
    ) -> tuple[str, list[int]]:
        """A conversation as text, and as tokens.

        Args:
            messages: As the template reads them.
            tools: As the template reads them.
            variables: Further ones of the template.
            param: The field of the request that they come from.

        Raises:
            ApiError: The template refuses it.
        """
        tokenizer = self.pipeline.tokenizer
        self._check_open()

        def work() -> tuple[str, list[int]]:
            text = tokenizer.apply_chat_template(messages, tools=list(tools) or None, **variables)
            # The template writes the special tokens itself.
            return text, tokenizer.encode(text, add_special_tokens=False)

        try:
            rendered: tuple[str, list[int]] = await run_in_threadpool(work)
        except GenAIError as error:
            raise ApiError(400, str(error), param=param) from error
        return rendered

    async def start(self, wanted: Wanted) -> Job:
        """Gives the sequences of a request their places.

        Raises:
            ApiError: There is no place, or a parameter is not legal.
        """
        count = len(wanted.prompts) * wanted.n
        self._take(count)
        requests: list[ScheduledRequest] = []
        try:
            async with self._compiling if wanted.overrides.keys() & set(GRAMMARS) else nullcontext():
                await run_in_threadpool(self._submit, wanted, requests)
        except BaseException as error:
            for request in requests:
                request.close()
            self.give_back(count)
            if isinstance(error, GenAIError):
                raise api_error_of(error, wanted.names, wanted.overrides) from error
            raise
        return Job(self, requests, wanted)

    async def whole(self, request: Request, job: Job) -> list[list[Chunk]]:
        """All chunks of a job by sequence; ends it if its client goes away.

        Raises:
            ClientGone: It has.
            ApiError: As ``Job.chunks``.
        """
        collected: list[list[Chunk]] = [[] for _ in job.requests]

        async def collect() -> None:
            async for at, chunk in job.chunks(at_the_end=True):
                collected[at].append(chunk)

        work, gone = asyncio.ensure_future(collect()), asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGone
            await work
        finally:
            gone.cancel()
            work.cancel()
            job.close()
        return collected

    def give_back(self, count: int) -> None:
        """Frees places."""
        self._num_places -= count

    def _check_open(self) -> None:
        if self.is_stopping:
            message = "The server stops. Send the request to another one."
            raise ApiError(503, message, code="server_stopping", retry_after=_RETRY_SECONDS)

    def _take(self, count: int) -> None:
        self._check_open()
        most = self.settings.slots + self.settings.max_queue
        if count > most:
            message = f"The request is for {count} sequences, and this server takes {most} at once. Ask for fewer."
            raise ApiError(400, message, param="n")
        if self._num_places + count > most:
            message = f"The server is busy: {self._num_places} sequences run or wait, {most} may. Try again later."
            raise ApiError(429, message, code="queue_full", retry_after=_RETRY_SECONDS)
        self._num_places += count

    def _submit(self, wanted: Wanted, requests: list[ScheduledRequest]) -> None:
        overrides = dict(wanted.overrides)
        config = self.pipeline.generation_config
        if not overrides.keys() & _LIMITS and config.max_new_tokens is None and config.max_length is None:
            # Nobody says how long: to the end of a slot, as other servers do.
            overrides["max_length"] = self.scheduler.capacity
        if self.settings.request_seconds is not None:
            overrides["max_time"] = self.settings.request_seconds
        for prompt in wanted.prompts:
            # One by one, so that all are known where one is refused.
            for index in range(wanted.n):
                request = self.scheduler.submit(
                    prompt,
                    index=index,
                    priority=wanted.priority,
                    is_answer=wanted.is_answer,
                    skip_special_tokens=wanted.skip_special_tokens,
                    **overrides,
                )
                requests += [request]


async def _until_gone(request: Request) -> None:
    """Ends when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
