# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""For generators of one sequence in a loop that the runtime owns: checks, and what a configuration asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from genai_iface.config import GenerationConfig
from genai_iface.errors import CacheOverflowError, InvalidInputError, UnsupportedCapabilityError

__all__ = ["check_honored", "check_new_tokens", "check_rewind", "stop_ids"]


def check_honored(config: GenerationConfig, known: Collection[str], runtime: str, /) -> None:
    """Refuses a configuration for which the runtime has no word.

    Args:
        config: What is asked for.
        known: The fields that are handed on; every other one has to be neutral.
        runtime: Its name, for people.

    Raises:
        UnsupportedCapabilityError: A field is not neutral, and the runtime cannot honor it.
    """
    neutral = GenerationConfig()
    for field in dataclasses.fields(config):
        if field.name not in known and getattr(config, field.name) != getattr(neutral, field.name):
            raise UnsupportedCapabilityError(
                f"{runtime} cannot honor {field.name}", remedy="Leave it alone, or use the backend 'ort'."
            )


def stop_ids(config: GenerationConfig, own: Collection[int], /) -> frozenset[int]:
    """The tokens that end a sequence.

    Args:
        config: What is asked for.
        own: Those that the folder names, for a configuration that says nothing about them.
    """
    ends = config.eos_token_id
    if config.ignore_eos:
        ends = ()
    elif ends is None:
        ends = tuple(own)
    return frozenset(config.stop_token_ids) | frozenset((ends,) if isinstance(ends, int) else ends)


def check_new_tokens(token_ids: Sequence[Any], /, *, held: int, vocab_size: int, capacity: int) -> list[int]:
    """The tokens of one list, or of a list of one, that are appended to a sequence.

    Args:
        token_ids: As ``Generator.append_tokens`` takes them.
        held: Tokens that the sequence has.
        vocab_size: V.
        capacity: Most tokens of the sequence.

    Raises:
        InvalidInputError: There are several rows, or an id is out of range.
        CacheOverflowError: There is no room for them.
    """
    rows = token_ids if token_ids and not isinstance(token_ids[0], (int, np.integer)) else [token_ids]
    if len(rows) != 1:
        raise InvalidInputError(f"{len(rows)} sequences were given", remedy="A runtime's generator has one.")
    tokens = [int(token) for token in rows[0]]
    wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidInputError(
            f"The token {wrong} is not in 0..{vocab_size - 1}", remedy="Give ids of the model's vocabulary."
        )
    if held + len(tokens) > capacity:
        raise CacheOverflowError(0, held + len(tokens), capacity)
    return tokens


def check_rewind(length: int | Sequence[int], /, *, held: int) -> int:
    """The length that the one sequence is rewound to.

    Raises:
        InvalidInputError: The sequence never had that length.
    """
    (wanted,) = [length] if isinstance(length, int) else length
    if not 0 <= wanted <= held:
        raise InvalidInputError(f"The length {wanted} is not in 0..{held}", remedy="Rewind to what was there.")
    return wanted
