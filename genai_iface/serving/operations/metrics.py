# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the server counts, in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from genai_iface.results import PerfMetrics

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        gauges: By name what it is, and a function that gives its present value.
    """

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._registry = CollectorRegistry()
        for name, (help_text, read) in gauges.items():
            Gauge(f"genai_iface_{name}", help_text, registry=self._registry).set_function(read)
        self._requests = Counter(
            "genai_iface_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self._cached_tokens = self._counter("cached_tokens", "Tokens of prompts that did not run, as a prefix was held")
        self._prefix_hits = self._counter("prefix_hits", "Sequences that began with a prefix that was held")
        self._generated_tokens = self._counter("generated_tokens", "Tokens that were generated")
        self._first = self._histogram("time_to_first_token_seconds", "From the request to its first token")
        self._each = self._histogram("time_per_output_token_seconds", "Mean time between two tokens of an answer")

    def count_request(self, path: str, status: int) -> None:
        """Takes note of an answer."""
        self._requests.labels(path, str(status)).inc()

    def count_sequence(self, metrics: PerfMetrics) -> None:
        """Takes note of a sequence that has ended."""
        self._prompt_tokens.inc(metrics.num_prompt_tokens)
        self._cached_tokens.inc(metrics.num_reused_tokens)
        self._prefix_hits.inc(metrics.num_reused_tokens > 0)
        self._generated_tokens.inc(metrics.num_generated_tokens)
        if metrics.time_to_first_token:
            self._first.observe(metrics.time_to_first_token)
        if metrics.time_per_output_token:
            self._each.observe(metrics.time_per_output_token)

    def render(self) -> bytes:
        """All of them as text."""
        text: bytes = generate_latest(self._registry)
        return text

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"genai_iface_{name}", help_text, registry=self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"genai_iface_{name}", help_text, buckets=_SECONDS, registry=self._registry)
