# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A request in a scheduler: as its owner holds it, and as the scheduler advances it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Protocol

from genai_iface.generation._collect import collect
from genai_iface.generation._request import GenerationRequest
from genai_iface.generation._running import RunningSequence
from genai_iface.generation._stopwatch import Stopwatch
from genai_iface.generation.text.async_chunks import iterate_in_thread
from genai_iface.results import Chunk, FinishReason, GenerationResult, PerfMetrics

__all__ = ["ScheduledRequest"]


class _Driver(Protocol):
    """What a request needs of its scheduler."""

    def wait(self, is_ready: Callable[[], bool], timeout: float | None = None) -> None: ...

    def cancel_request(self, request: ScheduledRequest) -> None: ...


class ScheduledRequest:
    """One prompt on its way. Made by ``Scheduler.submit``; all methods of its owner may be called from any thread.

    Iterating gives the chunks from the first one on, as they come, and any number of readers may do so. A
    reader that is slow holds up nobody: what it has not read yet is kept. ``async for`` works too; leaving
    such a loop early cancels the request. Implements ``Engine`` for one reader more.

    Args:
        request: What was asked.
        sequence: Its sequence, with the prompt appended.
        driver: Runs the steps.
        priority: Who has a smaller one gets a slot earlier.

    Attributes:
        request: What was asked.
        sequence: Its sequence, which the thread that runs the steps changes.
        priority: As given.
        is_cancelled: Whether somebody wants it to end.
        num_reused_tokens: Tokens of its prompt that another request has run.
    """

    def __init__(
        self, request: GenerationRequest, sequence: RunningSequence, driver: _Driver, *, priority: int = 0
    ) -> None:
        self.request = request
        self.sequence = sequence
        self.priority = priority
        self.is_cancelled = False
        self.num_reused_tokens = 0
        self._driver = driver
        self._stopwatch = Stopwatch(request.started)
        # It only grows, so readers need no lock.
        self._given: list[Chunk] = []
        self._num_stepped = 0
        self._cache_bytes = 0
        self._is_finished = False
        self._error: BaseException | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens of the prompt; a copy."""
        return list(self.request.prompts[0])

    @property
    def is_done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._is_finished

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it goes on, and if it failed."""
        last = self._given[-1:]
        return last[0].finish_reason if last else None

    @property
    def metrics(self) -> PerfMetrics:
        """The measurements so far: times are those of the steps that it took part in."""
        return self._stopwatch.metrics(
            num_prompt_tokens=len(self.request.prompts[0]),
            num_reused_tokens=self.num_reused_tokens,
            cache_bytes=self._cache_bytes,
        )

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
        self._driver.wait(lambda: self._is_finished, timeout)
        # A result has one sequence, whichever of several it is for its owner.
        return collect(self.request, self, (dataclasses.replace(chunk, index=0) for chunk in self._chunks()))

    def cancel(self) -> None:
        """Ends it with what it has, reason "cancelled". A running step ends first."""
        self._driver.cancel_request(self)

    def listen(self, listener: Callable[[], None], /) -> None:
        """Has a function called after each change: for readers that wait for many requests in one place.

        Args:
            listener: Called at once, and then in the thread that runs the steps; it returns quickly and raises
                nothing. It reads with ``chunks_from``.
        """
        self._listeners.append(listener)
        listener()

    def chunks_from(self, position: int, /) -> list[Chunk]:
        """The chunks from a position on, as far as they are there; never waits.

        Raises:
            BackendError: The step in which it ran failed, and there are no more chunks.
            Exception: What a function of the request's own raised.
        """
        # Whether it failed is asked first: the error comes after the last chunk.
        error = self._error
        new = self._given[position:]
        if not new and error is not None:
            raise error
        return new

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return iterate_in_thread(self._chunks(), self.cancel)

    # As an engine

    @property
    def has_ended(self) -> bool:
        """Whether ``step`` has given the last chunk."""
        return self._is_finished and self._num_stepped == len(self._given)

    def step(self) -> list[Chunk]:
        """Waits for the next chunks and gives them.

        Raises:
            BackendError: The step in which it ran failed.
            Exception: What a function of the request's own raised.
        """
        new = self._wait_for_more(self._num_stepped)
        self._num_stepped += len(new)
        return new

    def close(self) -> None:
        """Cancels it if it still goes on: its slot is freed."""
        if not self._is_finished:
            self.cancel()

    # What its scheduler calls

    @property
    def needs_steps(self) -> bool:
        """Whether the model has to run for it: for tokens, or for log-probabilities of its prompt."""
        return not self.sequence.is_done or (self.sequence.wants_prompt_logprobs and not self.is_cancelled)

    def interrupt(self) -> None:
        """Ends it if it was cancelled or is out of time."""
        self.sequence.interrupt(is_cancelled=self.is_cancelled)

    def advance(self, started: float) -> None:
        """Chooses a token if the step that began at ``started`` has given the logits for one.

        Raises:
            Exception: What a function of the caller raises.
        """
        logits = self.sequence.logits
        has_token = logits is not None and not self.sequence.is_done
        if has_token and logits is not None:
            self.sequence.settle(self.sequence.choose(logits))
        self._stopwatch.add(time.perf_counter() - started, int(has_token))

    def give(self, changed: threading.Condition, cache_bytes: int) -> bool:
        """Hands out what there is and wakes the readers.

        Returns:
            Whether that was the last of it.
        """
        is_over = not self.needs_steps
        if self.sequence.is_done and not is_over:
            # The last chunk has to wait for the log-probabilities of the prompt.
            return False
        chunk = self.sequence.take_chunk()
        if chunk is None and not is_over:
            return False
        with changed:
            if chunk is not None:
                self._given.append(chunk)
            if is_over:
                self._finish(cache_bytes)
            changed.notify_all()
        self._tell()
        return is_over

    def fail(self, error: BaseException, changed: threading.Condition, cache_bytes: int) -> None:
        """Ends it with an error, which its readers get after the chunks that there are."""
        with changed:
            self._error = error
            self._finish(cache_bytes)
            changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _finish(self, cache_bytes: int) -> None:
        self._is_finished = True
        self._cache_bytes = cache_bytes

    def _chunks(self) -> Generator[Chunk, None, None]:
        position = 0
        while new := self._wait_for_more(position):
            yield from new
            position += len(new)

    def _wait_for_more(self, position: int) -> list[Chunk]:
        """The chunks from a position on, at least one; none if there is nothing more to come."""
        self._driver.wait(lambda: self._is_finished or len(self._given) > position)
        new = self._given[position:]
        if not new and self._error is not None:
            raise self._error
        return new
