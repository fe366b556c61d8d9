# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a caller brings to a generation that is more than numbers and texts: functions, rules, files, readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.generation.constraints import Constraint
from genai_iface.generation.speculation.speculator import Speculation
from genai_iface.results import Chunk

__all__ = ["ChunkHook", "GenerationHooks", "LogitsHook", "PrefillHook", "StopHook", "Streamer", "TextHook"]

LogitsHook: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float64]], ArrayLike | None]
"""A caller's own processor: the sequence (T,) and its scores (V,) to new scores (V,), or None if it
changed those it got in place. It runs after all others and before the temperature."""

StopHook: TypeAlias = Callable[[NDArray[np.int64], str], bool]
"""A caller's own criterion: the sequence (T,), and the text that was generated so far as far as it is
certain; True ends the sequence. Without a tokenizer the text is empty."""

ChunkHook: TypeAlias = Callable[[Chunk], object]
"""Is told each chunk."""

TextHook: TypeAlias = Callable[[str], object]
"""Is told each piece of text; True ends the generation."""

PrefillHook: TypeAlias = Callable[[int, int], None]
"""Is told how many tokens of the prompts are done, and of how many."""


class Streamer(Protocol):
    """Takes the text of one sequence while it is generated, in the thread that called ``generate``.

    The next step waits until ``write`` has returned, so that a slow streamer holds the generation back.
    """

    def write(self, text: str, /) -> object:
        """Takes a piece of text: whole characters, at least one, nothing that is taken back later.

        Returns:
            True to end the generation, with the reason "cancelled"; anything else goes on.
        """
        ...

    def end(self) -> object:
        """Is called once after the last piece, also if the generation failed or was cancelled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationHooks:
    """A caller's own functions and rules for one call, beside the values of its ``GenerationConfig``.

    The calls of ``TextGenerationPipeline`` take these fields as keywords and make one of them, which everything
    below gets whole. Whoever drives a ``ModelGenerator`` or changes a single answer of a conversation makes it.

    Attributes:
        logits_processors: Functions on (tokens (T,), scores (V,)) that return new scores, or change
            them in place and return None. They run after all other processors.
        stopping_criteria: Functions on (tokens (T,), generated text); True ends the sequence.
        constraint: A rule for the output of each turn.
        prefix: A file of ``save_prefix``; what a prompt shares with it from the beginning does not run.
        speculation: How to guess tokens; the output is the same.
        streamer: Takes the text of the only sequence while it comes.
        on_chunk: Is called with each piece as it comes.
    """

    logits_processors: Sequence[LogitsHook] = ()
    stopping_criteria: Sequence[StopHook] = ()
    constraint: Constraint | None = None
    prefix: str | PathLike[str] | None = None
    speculation: Speculation | None = None
    streamer: Streamer | TextHook | None = None
    on_chunk: ChunkHook | None = None
