# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One sequence in the runtime's loop, which runs in a thread and waits after each token until the next is asked for."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import check_new_tokens, check_rewind, stop_ids
from genai_iface.config import GenerationConfig
from genai_iface.errors import BackendError, InvalidInputError, UnsupportedCapabilityError
from genai_iface.results import FinishReason
from genai_iface_openvino_genai.model import PreparedFolder
from genai_iface_openvino_genai.search import search_config

__all__ = ["OpenVINOGenAIGenerator"]

_MAX_RUNNING = 4


class OpenVINOGenAIGenerator:
    """Implements ``Generator`` for one sequence. What was appended runs with the next token that is asked for.

    Args:
        folder: Made ready for the runtime.
        config: How tokens are chosen and which of them end the sequence.
        capacity: Most tokens of the sequence; None for the model's context.

    Raises:
        UnsupportedCapabilityError: A field of the configuration cannot be honored.
    """

    def __init__(self, folder: PreparedFolder, config: GenerationConfig, capacity: int | None) -> None:
        self._search = search_config(config)
        self._stops = stop_ids(config, folder.eos_token_ids)
        self._folder = folder
        self._capacity = folder.context_length if capacity is None else min(capacity, folder.context_length)
        self._seed: int = self._search.rng_seed
        self._run: _Run | None = None
        self._tokens: list[int] = []
        self._next: int | None = None
        self._reason: FinishReason | None = None

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        """Why the sequence ended; None while it goes on."""
        return (self._reason,)

    def append_tokens(self, token_ids: Sequence[int] | Sequence[Sequence[int]], /) -> None:
        """Notes input tokens; the runtime begins anew with the whole sequence."""
        held, size = len(self._tokens), self._folder.vocab_size
        tokens = check_new_tokens(token_ids, held=held, vocab_size=size, capacity=self._capacity)
        self._stop()
        self._tokens += tokens
        self._reason = "length" if len(self._tokens) >= self._capacity else None

    def generate_next_token(self) -> None:
        """Lets the runtime choose one more token."""
        if not self._tokens or self._reason is not None:
            raise InvalidInputError(
                "There is nothing to go on from: no token was appended, or the sequence is done",
                remedy="Append tokens first.",
            )
        with self._folder.lock:
            if self._run is None or self._run.is_stopped:
                self._search.max_new_tokens = self._capacity - len(self._tokens)
                # One that was stopped for others must not draw again what it drew before.
                mixed = np.random.SeedSequence([self._seed, len(self._tokens)])
                self._search.rng_seed = int(mixed.generate_state(1)[0])
                self._run = _Run(self._folder, list(self._tokens), self._search)
                weakref.finalize(self, self._run.stop)
            self._next = self._run.take()
        self._tokens.append(self._next)
        if self._next in self._stops:
            self._reason = "stop"
        elif len(self._tokens) >= self._capacity:
            self._reason = "length"
        if self._reason is not None:
            self._stop()

    def is_done(self) -> bool:
        """Whether the sequence has ended."""
        return self._reason is not None

    def get_next_tokens(self) -> list[int | None]:
        """The token that came last."""
        return [self._next]

    def get_sequence(self, index: int, /) -> list[int]:
        """All tokens."""
        if index != 0:
            raise InvalidInputError(f"There is no sequence {index}", remedy="A runtime's generator has one: 0.")
        return list(self._tokens)

    def token_count(self, index: int = 0, /) -> int:
        """The number of tokens."""
        return len(self.get_sequence(index))

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        """Forgets tokens; the runtime begins anew with those that stay."""
        wanted = check_rewind(length, held=len(self._tokens))
        self._stop()
        self._tokens, self._reason = self._tokens[:wanted], None

    def get_logits(self) -> NDArray[np.float32]:
        """Refuses: the runtime shows no logits.

        Raises:
            UnsupportedCapabilityError: Always.
        """
        raise UnsupportedCapabilityError("OpenVINO GenAI shows no logits", remedy="Use the backend 'ort'.")

    def set_logits(self, logits: ArrayLike, /) -> None:
        """Refuses: the runtime takes no logits.

        Raises:
            UnsupportedCapabilityError: Always.
        """
        raise UnsupportedCapabilityError("OpenVINO GenAI takes no logits", remedy="Use the backend 'ort'.")

    def cancel(self) -> None:
        """Ends the sequence; a prefill that runs is not interrupted, the runtime has no way to."""
        self._reason = "cancelled"

    def close(self) -> None:
        """Ends the runtime's loop."""
        self._stop()

    def _stop(self) -> None:
        if self._run is not None:
            self._run.stop()
            self._run = None


class _Run:
    """One call of the runtime's loop, a token at a time. Of a folder only a few go at once: the others are stopped."""

    def __init__(self, folder: PreparedFolder, tokens: list[int], search: Any) -> None:
        while len(folder.running) >= _MAX_RUNNING:
            folder.running[0].stop()
        self._folder, self._pipeline = folder, folder.open_pipeline()
        folder.running.append(self)
        self._asked = threading.Semaphore(0)
        self._given: queue.SimpleQueue[int | RuntimeError | None] = queue.SimpleQueue()
        self.is_stopped = False
        arguments = (self._pipeline, openvino.Tensor(np.array([tokens], np.int64)), search)
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        self._thread.start()

    def _work(self, pipeline: Any, tokens: Any, search: Any) -> None:
        self._asked.acquire()
        try:
            if not self.is_stopped:
                pipeline.generate(tokens, search, _Tap(self))
        except RuntimeError as error:
            self._given.put(error)
        else:
            self._given.put(None)

    def give(self, token: int) -> bool:
        """Hands on a token and waits until the next is asked for; whether to go on."""
        self._given.put(token)
        self._asked.acquire()
        return not self.is_stopped

    def take(self) -> int:
        """The next token.

        Raises:
            BackendError: The runtime failed or ended by itself.
        """
        self._asked.release()
        given = self._given.get()
        if isinstance(given, int):
            return given
        raise BackendError(
            f"OpenVINO GenAI ended without a token: {str(given or 'of its own accord')[:300]}",
            remedy="Make a new generator.",
        ) from given

    def stop(self) -> None:
        """Ends the call and frees its pipeline."""
        with self._folder.lock:
            if self.is_stopped:
                return
            self.is_stopped = True
            self._asked.release()
            self._thread.join()
            self._folder.running.remove(self)
            self._folder.idle.append(self._pipeline)


class _Tap(openvino_genai.StreamerBase):  # type: ignore[misc]  # the runtime has no types
    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def write(self, token: int | list[int]) -> Any:
        """Called by the runtime after each token."""
        for one in [token] if isinstance(token, int) else token:
            if not self._run.give(int(one)):
                return openvino_genai.StreamingStatus.CANCEL
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Called by the runtime at the end."""
