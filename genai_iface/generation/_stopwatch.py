# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring a generation by the wall clock."""

from __future__ import annotations

import time

from genai_iface.results import PerfMetrics

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up what ``PerfMetrics`` reports.

    The first call of ``generate_next_token`` that gives a token ends the prefill; every later one is
    decoding. The time that a caller spends between the calls is not counted.

    Args:
        started: When the call began, by ``time.perf_counter``; None for now.
    """

    def __init__(self, started: float | None = None) -> None:
        self._started = time.perf_counter() if started is None else started
        self._prefill_seconds = 0.0
        self._decode_seconds = 0.0
        self._first_token_seconds = 0.0
        self._num_generated = 0
        self._num_decoded = 0
        self._num_decode_steps = 0
        self._num_decode_rounds = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.perf_counter() - self._started

    def add(self, seconds: float, num_tokens: int, *, has_run: bool = True) -> None:
        """Records one call.

        Args:
            seconds: How long it took.
            num_tokens: How many tokens it gave.
            has_run: Whether the model ran; tokens that were drafted before need no step of their own.
        """
        if self._num_generated:
            self._decode_seconds += seconds
            self._num_decoded += num_tokens
            self._num_decode_steps += has_run and bool(num_tokens)
            self._num_decode_rounds += bool(num_tokens)
        else:
            self._prefill_seconds += seconds
            if num_tokens:
                self._first_token_seconds = self.elapsed
        self._num_generated += num_tokens

    def metrics(
        self,
        *,
        num_prompt_tokens: int,
        cache_bytes: int,
        num_reused_tokens: int = 0,
        num_drafted_tokens: int = 0,
        num_accepted_tokens: int = 0,
    ) -> PerfMetrics:
        """What was measured so far."""
        return PerfMetrics(
            num_prompt_tokens=num_prompt_tokens,
            num_reused_tokens=num_reused_tokens,
            num_drafted_tokens=num_drafted_tokens,
            num_accepted_tokens=num_accepted_tokens,
            num_generated_tokens=self._num_generated,
            prefill_seconds=self._prefill_seconds,
            decode_seconds=self._decode_seconds,
            num_decode_tokens=self._num_decoded,
            num_decode_steps=self._num_decode_steps,
            num_decode_rounds=self._num_decode_rounds,
            time_to_first_token=self._first_token_seconds,
            cache_bytes=cache_bytes,
        )
