# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What /v1/completions takes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from genai_iface.serving.protocol.errors import invalid
from genai_iface.serving.protocol.fields import Sampling, TokenId

__all__ = ["CompletionRequest"]

# OpenAI's default.
_MAX_TOKENS = 16
_MAX_PROMPTS = 128

Ids = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(Sampling):
    """A text to go on with, or several."""

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=_MAX_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=_MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or several."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return list(prompt)

    def overrides(self) -> dict[str, Any]:
        """Fields of ``GenerationConfig``."""
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise invalid(
                "best_of", f"best_of={self.best_of} is not supported. Leave it out, or give it the value of n."
            )
        given = {
            **super().overrides(),
            "max_new_tokens": _MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            "logprobs": self.logprobs,
            "echo": self.echo,
        }
        return {name: value for name, value in given.items() if value is not None}
