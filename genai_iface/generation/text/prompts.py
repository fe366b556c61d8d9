# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What kind of prompt it is follows from its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from numpy import integer, ndarray

from genai_iface.errors import InvalidInputError
from genai_iface.protocols import Prompt, Tokenizer

__all__ = ["EncodedPrompt", "decode_prompt", "encode_prompt"]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as token ids.

    Attributes:
        token_ids: One list for each prompt.
        continues_text: Whether the output goes on where the text ends, or is an answer to it.
    """

    token_ids: list[list[int]]
    continues_text: bool


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, /, chat_template: str | None = None) -> EncodedPrompt:
    """Token ids of each prompt, one list for a single one.

    Args:
        tokenizer: Encodes texts, and renders conversations.
        prompt: What the user gave.
        chat_template: Of a conversation: a name, or a template itself; None for the tokenizer's choice.

    Raises:
        InvalidInputError: The shape means nothing, a prompt is empty, or a template goes with no conversation.
    """
    is_chat = _is_conversation(prompt)
    if chat_template is not None and not is_chat:
        raise InvalidInputError(
            "chat_template goes with a conversation, and the prompt is none",
            remedy='Pass a list of messages such as {"role": "user", "content": "..."}, or leave chat_template.',
        )
    if not (is_chat or _is_text(prompt)):
        encoded = _as_lists(prompt)
    elif is_chat:
        # A tokenizer of somebody else need not know the argument unless it is used.
        chosen: dict[str, Any] = {} if chat_template is None else {"chat_template": chat_template}
        text = tokenizer.apply_chat_template(cast("Sequence[Mapping[str, Any]]", prompt), **chosen)
        # The template writes the special tokens itself.
        encoded = [tokenizer.encode(text, add_special_tokens=False)]
    else:
        texts = [prompt] if isinstance(prompt, str) else cast("Sequence[str]", prompt)
        encoded = [tokenizer.encode(one) for one in texts]
    for index, ids in enumerate(encoded):
        if not ids:
            raise InvalidInputError(
                f"Prompt {index} is empty and the tokenizer begins it with no token",
                remedy="Pass at least one character or token.",
            )
    return EncodedPrompt(encoded, continues_text=not is_chat)


def _as_lists(prompt: object) -> list[list[int]]:
    """Token ids as a caller gives them, one list of them or several."""
    if _is_token_ids(prompt):
        return [[int(token) for token in cast("Sequence[int]", prompt)]]
    if not _is_sequence(prompt) or not all(_is_token_ids(item) or _is_empty(item) for item in cast("Any", prompt)):
        raise InvalidInputError(
            f"A prompt of type {type(prompt).__name__} with such items is not understood",
            remedy="Pass a text, a list of texts, a list of messages, or one or several lists of token ids.",
        )
    if _is_empty(prompt):
        raise InvalidInputError("The list of prompts is empty", remedy="Pass at least one prompt.")
    return [[int(token) for token in item] for item in cast("Sequence[Sequence[int]]", prompt)]


def decode_prompt(tokenizer: Tokenizer, token_ids: Sequence[int], /) -> str:
    """The text of a prompt, without a character at its end that is not complete: what follows completes it."""
    known = [token for token in token_ids if token < tokenizer.vocab_size]
    return tokenizer.decode(known).rstrip("\ufffd")


def _is_text(prompt: object) -> bool:
    """Whether a prompt is a text or a list of texts."""
    if isinstance(prompt, str):
        return True
    items = cast("Sequence[Any]", prompt)
    return _is_sequence(prompt) and not _is_empty(prompt) and all(isinstance(item, str) for item in items)


def _is_sequence(prompt: object) -> bool:
    return isinstance(prompt, (Sequence, ndarray)) and not isinstance(prompt, (str, bytes))


def _is_empty(prompt: object) -> bool:
    return _is_sequence(prompt) and not len(cast("Sequence[Any]", prompt))


def _is_conversation(prompt: object) -> bool:
    """Whether a prompt is a list of messages."""
    return (
        _is_sequence(prompt)
        and not _is_empty(prompt)
        and all(isinstance(item, Mapping) for item in cast("Sequence[Any]", prompt))
    )


def _is_token_ids(prompt: object) -> bool:
    return (
        _is_sequence(prompt)
        and not _is_empty(prompt)
        and all(
            isinstance(item, (int, integer)) and not isinstance(item, bool) for item in cast("Sequence[Any]", prompt)
        )
    )
