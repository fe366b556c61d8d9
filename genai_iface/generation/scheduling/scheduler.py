# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: requests join and leave the rows of one cache at any step."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.errors import BackendError, InvalidInputError
from genai_iface.generation._memory import check_rows_fit, tokens_to_hold
from genai_iface.generation._own_process import OwnProcess
from genai_iface.generation._request import GenerationRequest, context_of
from genai_iface.generation.constraints import Constraint
from genai_iface.generation.hooks import GenerationHooks, LogitsHook, StopHook
from genai_iface.generation.rows.step import run_step
from genai_iface.generation.scheduling.admission import check_batches, open_sequence
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.generation.scheduling.slots import Slots
from genai_iface.generation.scheduling.step_plan import plan_step
from genai_iface.generation.scheduling.waiting import WaitingRequests
from genai_iface.generation.speculation.speculator import Speculation
from genai_iface.protocols import Model, Prompt, Tokenizer

__all__ = ["Scheduler"]


class _MakeRequest(Protocol):
    """Checks what ``submit`` gets."""

    def __call__(
        self, prompt: Prompt, config: GenerationConfig | None, hooks: GenerationHooks, overrides: Mapping[str, Any], /
    ) -> GenerationRequest: ...


class Scheduler:
    """Serves many requests at once with one model. Made by ``TextGenerationPipeline.scheduler``.

    Each slot is a row of one cache. In every step a slot does its own thing: nothing, a part of a prompt, or
    one token of an answer. Requests get slots by priority, of one priority in the order in which they were
    submitted, and keep them until they end; the others wait. A step runs one token for every answer first, and
    spends what is left of the token budget on prompts, the oldest first: so answers go on while a long prompt is
    read, and every request comes to its end.

    A request gives the tokens that ``generate`` gives for it alone, up to rounding: draws depend on nothing
    else in the batch. All methods may be called from any thread.

    Args:
        model: Runs the steps.
        tokenizer: Text from tokens.
        make_request: Checks a prompt, a configuration, hooks and overrides.
        model_lock: Held during a step.
        slots: Requests that run at once.
        token_budget: Most tokens of one step, over all slots. A larger one reads prompts faster, a smaller one
            keeps the time between two tokens of an answer short.
        capacity: Most tokens of one request, prompt included; None for the model's context.
        thread: Whether a thread of its own runs the steps. Without it whoever waits for a request runs them, or
            whoever calls ``step``.
        memory_limit: Most bytes of the cache; None for what the system has available, where that is known.
        prefix_bytes: Most bytes of the cache that finished requests keep, so that a prompt which begins as one of
            theirs need not run from its beginning; 0 for none.

    Raises:
        UnsupportedCapabilityError: The model takes no ragged steps, or its cache wraps around.
        InvalidInputError: A value is out of range.
        InsufficientMemoryError: The slots would need more memory than there is.
    """

    def __init__(
        self,
        model: Model[Any],
        tokenizer: Tokenizer,
        make_request: _MakeRequest,
        *,
        model_lock: AbstractContextManager[Any],
        slots: int = 8,
        token_budget: int = 256,
        capacity: int | None = None,
        thread: bool = True,
        memory_limit: int | None = None,
        prefix_bytes: int = 0,
    ) -> None:
        check_batches(model)
        if slots < 1:
            raise InvalidInputError(f"slots={slots} is not legal", remedy="Legal: an integer of at least 1.")
        if token_budget < slots:
            raise InvalidInputError(
                f"token_budget={token_budget} is not legal for {slots} slots",
                remedy=f"Every slot may need a token in each step: pass at least {slots}.",
            )
        if prefix_bytes < 0:
            raise InvalidInputError(f"prefix_bytes={prefix_bytes} is not legal", remedy="Pass a number of bytes, or 0.")
        self._process = OwnProcess("scheduler")
        self._model = model
        self._tokenizer = tokenizer
        self._make_request = make_request
        self._token_budget = token_budget
        self._gives_all = Capability.LOGITS_ALL in model.capabilities
        self._model_lock = model_lock
        self._step_lock = threading.RLock()
        # Guards what readers see; held for moments only, never during a step.
        self._changed = threading.Condition()
        self._waiting = WaitingRequests()
        self._is_closed = False
        self._failure: BaseException | None = None
        self._memory_limit = memory_limit
        self._grows = Capability.GROWTH in model.capabilities
        if not self._grows:
            check_rows_fit(model, slots, capacity or context_of(model.spec) or 0, memory_limit)
        self._slots = Slots(model, slots, capacity, self._changed, prefix_bytes=prefix_bytes, memory_limit=memory_limit)
        self._thread: threading.Thread | None = None
        if thread:
            self._thread = threading.Thread(target=self._serve, name="genai-iface-scheduler", daemon=True)
            self._thread.start()

    @property
    def num_running(self) -> int:
        """Requests that have a slot."""
        return len(self._slots)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    @property
    def num_kept(self) -> int:
        """Rows that finished requests keep for prompts that begin as theirs."""
        return self._slots.num_kept

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it was not closed, and its thread has not failed."""
        return not self._is_closed and self._failure is None

    @property
    def capacity(self) -> int:
        """Most tokens of one request, prompt included."""
        return self._slots.cache.capacity

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache, of all slots together."""
        return self._slots.cache.nbytes

    def submit(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        logits_processors: Sequence[LogitsHook] = (),
        stopping_criteria: Sequence[StopHook] = (),
        constraint: Constraint | None = None,
        prefix: str | PathLike[str] | None = None,
        speculation: Speculation | None = None,
        index: int = 0,
        priority: int = 0,
        is_answer: bool = False,
        skip_special_tokens: bool = True,
        **overrides: Any,
    ) -> ScheduledRequest:
        """Adds a request and returns at once.

        Args:
            prompt: A text, a conversation, or a list of token ids: one prompt.
            config: Replaces the pipeline's ``generation_config`` for this request.
            logits_processors: As for ``generate``; called in the thread that runs the steps.
            stopping_criteria: As for ``generate``; called in the thread that runs the steps.
            constraint: As for ``generate``.
            prefix: Is refused: the rows of a scheduler begin empty.
            speculation: Is refused: a slot runs one token in a step.
            index: Which of several sequences of one prompt it is: as the sequence of that number of
                ``num_return_sequences`` draws, and so that its chunks say it.
            priority: Of those that wait the one with the smallest gets the next slot, of equals the oldest. At most 32
                later requests pass one that waits.
            is_answer: Whether the text of token ids begins anew, as after a conversation that was rendered already.
            skip_special_tokens: Whether special tokens are left out of the text.
            **overrides: Single fields of ``GenerationConfig``, over either. ``max_time`` counts from now on, the
                time that the request waits for a slot included.

        Raises:
            InvalidInputError: A parameter is not legal, there are several prompts, or the request needs more
                tokens than a slot holds.
            UnsupportedCapabilityError: It asks for beam search, a saved prompt or speculation.
            CacheOverflowError: The prompt is longer than the model's context.
            InsufficientMemoryError: Rows of its length would need more memory than there is.
        """
        self._process.check()
        hooks = GenerationHooks(
            logits_processors=logits_processors,
            stopping_criteria=stopping_criteria,
            constraint=constraint,
            prefix=prefix,
            speculation=speculation,
        )
        asked = self._make_request(prompt, config, hooks, overrides)
        if is_answer:
            asked = dataclasses.replace(asked, continues_text=False)
        sequence = open_sequence(
            asked,
            self._model,
            self._tokenizer,
            room=self._slots.cache.capacity,
            index=index,
            skip_special_tokens=skip_special_tokens,
        )
        request = ScheduledRequest(asked, sequence, self, priority=priority)
        if self._grows:
            # The rows of one cache are as long as the longest of them.
            cache = self._slots.cache
            length = min(tokens_to_hold(self._model, asked), cache.capacity)
            check_rows_fit(self._model, self._slots.count, length, self._memory_limit, held=cache.nbytes)
        with self._changed:
            self._check_open()
            if request.needs_steps:
                self._waiting.add(request)
            else:
                request.give(self._changed, 0)
            self._changed.notify_all()
        return request

    def step(self) -> bool:
        """Runs one step of the model for all requests that have a slot.

        Without a thread of the scheduler's own this is how a server drives it; waiting for a request calls it.

        Returns:
            Whether anything is left to do.
        """
        self._process.check()
        with self._step_lock, self._model_lock:
            if self._is_closed:
                return False
            self._drop_interrupted()
            self._slots.admit(self._waiting)
            if self._slots:
                self._run()
            with self._changed:
                return bool(self._slots or self._waiting)

    def cancel(self) -> None:
        """Ends all requests with what they have, reason "cancelled"."""
        self._process.check()
        with self._changed:
            requests = self._all_requests()
        for request in requests:
            self.cancel_request(request)

    def close(self) -> None:
        """Ends all requests with what they have and frees the cache. A second call does nothing."""
        if self._process.is_other:
            # All of it belongs to the process that made it, and a lock may be held for ever.
            return
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            for request in self._all_requests():
                request.is_cancelled = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._step_lock, self._model_lock:
            self._drop_interrupted()
            self._slots.cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What requests call

    def wait(self, is_ready: Callable[[], bool], timeout: float | None = None) -> None:
        """Waits until a condition on a request holds, and runs the steps meanwhile if no thread does.

        Raises:
            TimeoutError: It does not hold by then.
        """
        self._process.check()
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._thread is not None:
            with self._changed:
                if not self._changed.wait_for(is_ready, timeout):
                    raise _late(timeout)
            return
        while not is_ready():
            if deadline is not None and time.monotonic() >= deadline:
                raise _late(timeout)
            if not self._is_closed:
                self.step()
                continue
            # Whoever closes it ends the requests.
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            with self._changed:
                if not self._changed.wait_for(is_ready, left):
                    raise _late(timeout)

    def cancel_request(self, request: ScheduledRequest) -> None:
        """Ends one request; at once if it waits, else before the next step."""
        self._process.check()
        with self._changed:
            request.is_cancelled = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._settle(request)
            self._changed.notify_all()

    # Parts of a step

    def _drop_interrupted(self) -> None:
        """Ends what was cancelled or is out of time."""
        with self._changed:
            for request in list(self._waiting):
                request.interrupt()
                if not request.needs_steps:
                    self._waiting.remove(request)
                    self._settle(request)
        for slot, request in self._slots.taken:
            request.interrupt()
            if not request.needs_steps:
                self._settle(request)
                self._slots.free(slot)

    def _run(self) -> None:
        """One step of the model, and what follows from it for each request."""
        started = time.perf_counter()
        slots, cache = self._slots, self._slots.cache
        lengths: list[int] = cache.lengths.tolist()
        taken = dict(slots.ready)
        watched = {slot for slot, request in taken.items() if request.sequence.wants_prompt_logprobs}
        counts, takes_all = plan_step(
            cache.batch_size,
            {slot: slots.limit(slot, len(request.sequence) - lengths[slot]) for slot, request in taken.items()},
            watched,
            token_budget=self._token_budget,
            gives_all=self._gives_all,
        )

        counts = slots.make_room(counts)
        lengths = cache.lengths.tolist()

        def observe(slot: int, start: int, logits: NDArray[np.float32]) -> None:
            taken[slot].sequence.observe(start, logits)

        try:
            run_step(
                self._model,
                cache,
                slots.states,
                lengths,
                counts,
                takes_all=takes_all,
                observe=observe if watched else None,
            )
        except BaseException as error:
            slots.fail(error)
            if not isinstance(error, Exception):
                raise
            return
        slots.note_progress()
        for slot, request in taken.items():
            if not counts[slot]:
                continue
            try:
                request.advance(started)
                is_over = request.give(self._changed, cache.nbytes)
            except Exception as error:  # noqa: BLE001 - a function of this request's own; the others go on
                request.fail(error, self._changed, cache.nbytes)
                is_over = True
            if is_over:
                slots.free(slot)

    def _settle(self, request: ScheduledRequest) -> None:
        """Ends a request that needs no step any more."""
        request.interrupt()
        # It may stand in the queue while another thread changes the cache.
        request.give(self._changed, 0)

    # The thread

    def _serve(self) -> None:
        try:
            while self._has_work():
                self.step()
        except BaseException as error:
            self._give_up(error)
            raise

    def _has_work(self) -> bool:
        """Waits for something to do; False once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._slots or self._waiting)
            return not self._is_closed

    def _give_up(self, error: BaseException) -> None:
        """Nobody may wait for a thread that has ended."""
        with self._changed:
            self._failure = error
            for request in self._all_requests():
                request.fail(error, self._changed, 0)
            self._waiting.clear()
            self._slots.abandon()

    def _all_requests(self) -> list[ScheduledRequest]:
        return [*self._waiting, *self._slots.requests]

    def _check_open(self) -> None:
        if self._is_closed:
            raise InvalidInputError("The scheduler is closed", remedy="Make a new one.")
        if self._failure is not None:
            raise BackendError(f"The scheduler has failed: {self._failure}", remedy="Make a new one.")


def _late(timeout: float | None) -> TimeoutError:
    return TimeoutError(f"The request is not done after {timeout} seconds; it goes on")
