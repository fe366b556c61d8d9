# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A target of the profile "text" driven as if it were a pipeline: one request for each sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance.text._result import Completion, TextResult
from genai_iface.results import Chunk

__all__ = ["TextPipeline", "TextTarget"]

_MAX_SEED = 2**64


class TextTarget(Protocol):
    """The least that a target of the profile "text" does."""

    def complete(self, prompt: str | Sequence[int], fields: Mapping[str, Any], /) -> Completion:
        """Generates one sequence.

        Args:
            prompt: Text or token ids.
            fields: Of ``GenerationConfig``, those that are not neutral; the model's folder says the rest.

        Raises:
            UnsupportedCapabilityError: A field cannot be honored; the message names it.
            NotApplicable: Token ids cannot go in.
        """
        ...

    def stream(self, prompt: str, fields: Mapping[str, Any], /) -> Iterator[Chunk]:
        """The same in pieces.

        Raises:
            NotApplicable: The target does not stream.
        """
        ...

    def close(self) -> None:
        """Lets the model go."""
        ...


class TextPipeline:
    """Prompts in, ``TextResult`` out, with the calls of ``Pipeline`` that checks of this profile use.

    Args:
        target: Does the work.
    """

    def __init__(self, target: TextTarget) -> None:
        self._target = target

    def generate(self, prompts: str | Sequence[Any], /, **fields: Any) -> TextResult:
        """Completes each prompt, ``num_return_sequences`` times."""
        times = fields.pop("num_return_sequences", 1)
        return TextResult(
            [
                self._target.complete(prompt, _seeded(fields, number))
                for prompt in _as_prompts(prompts)
                for number in range(times)
            ]
        )

    def stream(self, prompts: str | Sequence[str], /, **fields: Any) -> Iterator[Chunk]:
        """Streams each prompt, one after the other."""
        for index, prompt in enumerate(_as_prompts(prompts)):
            if not isinstance(prompt, str):
                raise NotApplicable("only text is streamed")
            for chunk in self._target.stream(prompt, fields):
                yield Chunk(chunk.text, chunk.token_ids, chunk.logprobs, index, chunk.finish_reason)

    def close(self) -> None:
        """Closes the target."""
        self._target.close()


def _as_prompts(prompts: str | Sequence[Any]) -> list[str | list[int]]:
    """A text, several, a list of token ids, or several such lists."""
    if isinstance(prompts, str):
        return [prompts]
    if prompts and isinstance(prompts[0], int):
        return [[int(token) for token in prompts]]
    return [prompt if isinstance(prompt, str) else [int(token) for token in prompt] for prompt in prompts]


def _seeded(fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Sequences of one prompt must not be equal."""
    if fields.get("seed") is None:
        return dict(fields)
    return {**fields, "seed": (fields["seed"] + number) % _MAX_SEED}
