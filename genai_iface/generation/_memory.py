# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the cache of a request has room in memory; asked before it is made."""

from __future__ import annotations

from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError
from genai_iface.generation._request import GenerationRequest
from genai_iface.memory import available_memory, check_cache_fits
from genai_iface.protocols import Model

__all__ = ["check_memory_limit", "check_request_fits", "check_rows_fit", "tokens_to_hold"]


def check_memory_limit(limit: int | None) -> None:
    """Refuses a limit that is none.

    Raises:
        InvalidInputError: It is negative.
    """
    if limit is not None and limit < 0:
        raise InvalidInputError(f"memory_limit={limit} is not legal", remedy="Pass a number of bytes, or None.")


def check_request_fits(model: Model[Any], request: GenerationRequest, limit: int | None) -> None:
    """Refuses a request whose cache needs more memory than there is.

    Raises:
        InsufficientMemoryError: The message shows the arithmetic.
    """
    # The sequences of one beam search share its rows.
    length = tokens_to_hold(model, request)
    rows = sum(one.num_beams if one.num_beams > 1 else one.num_return_sequences for one in request.configs)
    check_rows_fit(model, rows, length, limit)


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
    available = limit
    if limit is None and model.device.kind == "cpu":
        available = available_memory()
    # A limit is for the whole cache; the system has what it has beside the part that is there already.
    check_cache_fits(model.spec.cache, rows, length, available=available, held=held if limit is None else 0)


def tokens_to_hold(model: Model[Any], request: GenerationRequest) -> int:
    """The tokens per row that a request is sure to need room for, or has asked for.

    A cache that grows takes no more than its tokens; an answer that nobody limits may end long before the context does.
    """
    if request.is_bounded or Capability.GROWTH not in model.capabilities:
        return request.capacity
    return min(request.capacity, max(map(len, request.prompts)) + 1)
