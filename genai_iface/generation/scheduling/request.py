# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A request that was given to a scheduler, as its owner holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Protocol

from genai_iface.generation.scheduling.job import Job
from genai_iface.generation.text.async_chunks import iterate_in_thread
from genai_iface.generation.text.collect import collect
from genai_iface.results import Chunk, FinishReason, GenerationResult

__all__ = ["ScheduledRequest"]


class _Driver(Protocol):
    """What a request needs of its scheduler."""

    def wait(self, is_ready: Callable[[], bool], timeout: float | None = None) -> None: ...

    def cancel_job(self, job: Job) -> None: ...


class ScheduledRequest:
    """One prompt on its way. Made by ``Scheduler.submit``; all methods may be called from any thread.

    Iterating gives the chunks from the first one on, as they come, and any number of readers may do so. A
    reader that is slow holds up nobody: what it has not read yet is kept. ``async for`` works too; leaving
    such a loop early cancels the request.
    """

    def __init__(self, job: Job, driver: _Driver) -> None:
        self._job = job
        self._driver = driver

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens of the prompt; a copy."""
        return list(self._job.call.prompts[0])

    @property
    def is_done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._job.is_finished

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it goes on, and if it failed."""
        last = self._job.chunks[-1:]
        return last[0].finish_reason if last else None

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Waits for the end.

        Args:
            timeout: Most seconds to wait; None for no limit.

        Returns:
            What ``TextGenerationPipeline.generate`` returns for this prompt alone. After ``cancel`` it holds
            what there is. Times in its measurements are those of the steps that the request took part in,
            and its time to the first token includes the time that it waited for a slot.

        Raises:
            TimeoutError: It is not done by then; it goes on.
            BackendError: The step in which it ran failed.
            Exception: What a function of the request's own (``logits_processors``, ``stopping_criteria``) raised.
        """
        self._driver.wait(lambda: self._job.is_finished, timeout)
        if self._job.error is not None:
            raise self._job.error
        return collect(self._job.call, self._job.chunks)

    def cancel(self) -> None:
        """Ends it with what it has, reason "cancelled". A running step ends first."""
        self._driver.cancel_job(self._job)

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return iterate_in_thread(self._chunks(), self.cancel)

    def _chunks(self) -> Generator[Chunk, None, None]:
        job, position = self._job, 0
        while True:
            self._driver.wait(lambda: job.is_finished or len(job.chunks) > position)  # noqa: B023 - called at once
            if position < len(job.chunks):
                yield job.chunks[position]
                position += 1
            elif job.error is not None:
                raise job.error
            else:
                return
