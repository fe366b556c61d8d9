# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the cache of a call has room in memory; asked before it is made."""

from __future__ import annotations

from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError
from genai_iface.generation.call import Call
from genai_iface.memory import available_memory, check_cache_fits
from genai_iface.protocols import Model

__all__ = ["check_call_fits", "check_memory_limit", "check_rows_fit", "tokens_to_hold"]


def check_memory_limit(limit: int | None) -> None:
    """Refuses a limit that is none.

    Raises:
        InvalidInputError: It is negative.
    """
    if limit is not None and limit < 0:
        raise InvalidInputError(f"memory_limit={limit} is not legal", remedy="Pass a number of bytes, or None.")


def check_call_fits(model: Model[Any], call: Call, limit: int | None) -> None:
    """Refuses a call whose cache needs more memory than there is.

    Raises:
        InsufficientMemoryError: The message shows the arithmetic.
    """
    rows = index = 0
    while index < len(call.configs):
        config = call.configs[index]
        # The sequences of one beam search share its rows.
        rows += config.num_beams
        index += config.num_return_sequences if config.num_beams > 1 else 1
    check_rows_fit(model, rows, tokens_to_hold(model, call), limit)


def check_rows_fit(model: Model[Any], rows: int, length: int, limit: int | None, *, held: int = 0) -> None:
    """Refuses a cache of so many rows and tokens that needs more memory than there is.

    Args:
        model: Will make it.
        rows: The rows of the cache.
        length: Tokens per row.
        limit: Bytes that the caller allows for the whole cache; None for what the system has, where that is known:
            nobody but the runtime knows the memory of another device.
        held: Bytes that the cache has already.

    Raises:
        InsufficientMemoryError: The message shows the arithmetic.
    """
    if limit is not None:
        check_cache_fits(model.spec.cache, rows, length, available=limit)
    elif model.device.kind == "cpu":
        check_cache_fits(model.spec.cache, rows, length, available=available_memory(), held=held)


def tokens_to_hold(model: Model[Any], call: Call) -> int:
    """The tokens per row that a call is sure to need room for, or has asked for.

    A cache that grows takes no more than its tokens; an answer that nobody limits may end long before the context does.
    """
    is_bounded = all(config.max_new_tokens is not None or config.max_length is not None for config in call.configs)
    if is_bounded or Capability.GROWTH not in model.capabilities:
        return call.capacity
    return min(call.capacity, max(map(len, call.prompts)) + 1)
