# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One request as the scheduler sees it: a sequence, what it has given, and how it ended."""

from __future__ import annotations

import threading
import time

from genai_iface.generation.call import Call
from genai_iface.generation.running import RunningSequence
from genai_iface.generation.text.chunks import ChunkSource
from genai_iface.results import Chunk

__all__ = ["Job"]


class Job:
    """A request in a scheduler. The thread that runs the steps changes it; ``chunks`` only grows.

    Args:
        call: What was asked.
        running: Its sequence, with the prompt appended.
        source: Cuts its output.

    Attributes:
        call: What was asked.
        running: Its sequence.
        chunks: What it has given.
        is_cancelled: Whether somebody wants it to end.
        is_finished: Whether nothing will come any more.
        error: Why it failed.
    """

    def __init__(self, call: Call, running: RunningSequence, source: ChunkSource) -> None:
        self.call = call
        self.running = running
        self.chunks: list[Chunk] = []
        self.is_cancelled = False
        self.is_finished = False
        self.error: BaseException | None = None
        self._source = source

    @property
    def needs_steps(self) -> bool:
        """Whether the model has to run for it: for tokens, or for log-probabilities of its prompt."""
        return not self.running.is_done or (self.running.wants_prompt_logprobs and not self.is_cancelled)

    def interrupt(self) -> None:
        """Ends it if it was cancelled or is out of time."""
        if not self.running.is_done and (self.is_cancelled or self.running.is_late):
            self.running.end("cancelled" if self.is_cancelled else "time")

    def advance(self, started: float) -> None:
        """Chooses a token if the step that began at ``started`` has given the logits for one.

        Raises:
            Exception: What a function of the caller raises.
        """
        running = self.running
        has_token = running.state.logits is not None and not running.is_done
        if has_token and running.state.logits is not None:
            running.settle(running.choose(running.state.logits))
        self.call.stopwatch.add(time.perf_counter() - started, int(has_token))

    def give(self, changed: threading.Condition, cache_bytes: int) -> bool:
        """Hands out what there is and wakes the readers.

        Returns:
            Whether that was the last of it.
        """
        is_over = not self.needs_steps
        if self.running.is_done and not is_over:
            # The last chunk has to wait for the log-probabilities of the prompt.
            return False
        chunk = self._source.take()
        if chunk is None and not is_over:
            return False
        with changed:
            if chunk is not None:
                self.chunks.append(chunk)
            if is_over:
                self._finish(cache_bytes)
            changed.notify_all()
        return is_over

    def fail(self, error: BaseException, changed: threading.Condition, cache_bytes: int) -> None:
        """Ends it with an error, which its readers get after the chunks that there are."""
        with changed:
            self.error = error
            self._finish(cache_bytes)
            changed.notify_all()

    def _finish(self, cache_bytes: int) -> None:
        self.is_finished = True
        prompt = self.call.prompts[0]
        self.call.metrics = self.call.stopwatch.metrics(num_prompt_tokens=len(prompt), cache_bytes=cache_bytes)
