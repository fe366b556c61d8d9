# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What ends a sequence: stop strings, stop tokens and limits."""

from __future__ import annotations

from collections.abc import Sequence

from genai_iface.config import GenerationConfig

__all__ = ["StopStrings", "length_limit", "stop_strings_of"]


class StopStrings:
    """Finds stop strings in text that arrives in pieces.

    The outcome is the same however the text is cut into pieces: the stop string that is complete
    first ends the text, the longest one if several end at the same character.

    Args:
        strings: The stop strings, none of them empty.
        include: Whether the stop string stays in the text.
    """

    def __init__(self, strings: Sequence[str], *, include: bool = False) -> None:
        self._strings = tuple(strings)
        self._include = include
        self._longest = max(map(len, self._strings), default=0)

    def __bool__(self) -> bool:
        return bool(self._strings)

    @property
    def is_included(self) -> bool:
        """Whether the stop string stays in the text."""
        return self._include

    def find(self, text: str, /) -> tuple[int, int] | None:
        """Where the stop string that ends the text begins and ends, or None if it holds none."""
        matches = [(start + len(stop), start) for stop in self._strings if (start := text.find(stop)) >= 0]
        if not matches:
            return None
        end, start = min(matches)
        return start, end

    def find_end(self, text: str, /) -> int | None:
        """Where the text has to end, or None if it holds no stop string."""
        found = self.find(text)
        return None if found is None else found[1 if self._include else 0]

    def overlap(self, text: str, /) -> int:
        """How many characters at the end of the text may be the beginning of a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[len(text) - length :]
            if any(len(stop) > length and stop.startswith(tail) for stop in self._strings):
                return length
        return 0


def stop_strings_of(config: GenerationConfig, /) -> StopStrings:
    """The stop strings that a configuration asks for."""
    return StopStrings(config.stop_strings, include=config.include_stop_str_in_output)


def length_limit(config: GenerationConfig, prompt_length: int, capacity: int) -> int:
    """The most tokens that a sequence may have, prompt included.

    Args:
        config: Gives max_new_tokens and max_length; the tighter one counts.
        prompt_length: Tokens before the first generated one.
        capacity: Tokens that the cache can hold.
    """
    limit = capacity
    if config.max_length is not None:
        limit = min(limit, config.max_length)
    if config.max_new_tokens is not None:
        limit = min(limit, prompt_length + config.max_new_tokens)
    return limit
