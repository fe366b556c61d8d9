# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The one protocol behind every way to generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from genai_iface.results import Chunk, PerfMetrics

__all__ = ["Engine"]


class Engine(Protocol):
    """Does the work of one request, step by step.

    ``ModelGenerator`` decodes token by token, with speculation or without, ``BeamSearch`` searches beams, a
    ``ScheduledRequest`` takes part in the steps of a scheduler, and a runtime that owns its loop is driven by
    ``RuntimeLoop``. Whoever reads the chunks need not know which of them it is.

    An engine allocates its cache in the first step. It is not thread safe, apart from ``cancel``.
    """

    @property
    def has_ended(self) -> bool:
        """Whether every sequence has given its last chunk."""
        ...

    @property
    def metrics(self) -> PerfMetrics:
        """The measurements so far; ``close`` keeps them."""
        ...

    def step(self) -> Sequence[Chunk]:
        """Takes one step and gives the pieces that it completes, possibly none.

        The last piece of each sequence, and no other, has a ``finish_reason``.

        Raises:
            GenAIError: As ``Model.forward``.
        """
        ...

    def cancel(self) -> None:
        """Ends all sequences with what they have, reason "cancelled". May be called from any thread.

        A running step ends first; the next one gives what was held back.
        """
        ...

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        ...
