# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a target of the profile "text" shows of a call; less than a pipeline of the interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genai_iface.conformance._failure import NotApplicable
from genai_iface.results import TokenLogprob

__all__ = ["Completion", "TextResult"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One sequence.

    Attributes:
        text: What was generated.
        finish_reason: Why it ended.
        token_ids: Its tokens, or None where the target shows none.
        logprobs: One entry per token, or None.
    """

    text: str
    finish_reason: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


class TextResult:
    """The sequences of a call in prompt order, with the names of ``GenerationResult``."""

    def __init__(self, completions: Sequence[Completion]) -> None:
        self._completions = completions

    @property
    def texts(self) -> list[str]:
        """The text of each sequence."""
        return [item.text for item in self._completions]

    @property
    def text(self) -> str:
        """The first one's."""
        return self.texts[0]

    @property
    def finish_reasons(self) -> list[str]:
        """Why each ended."""
        return [item.finish_reason for item in self._completions]

    @property
    def has_token_ids(self) -> bool:
        """Whether the target shows tokens."""
        return all(item.token_ids is not None for item in self._completions)

    @property
    def token_ids(self) -> list[list[int]]:
        """The tokens of each.

        Raises:
            NotApplicable: The target shows none.
        """
        if not self.has_token_ids:
            raise NotApplicable("the target shows no token ids")
        return [list(item.token_ids or ()) for item in self._completions]

    @property
    def logprobs(self) -> list[list[TokenLogprob]] | None:
        """One entry per token of each, or None where the target shows none."""
        if any(item.logprobs is None for item in self._completions):
            return None
        return [list(item.logprobs or ()) for item in self._completions]
