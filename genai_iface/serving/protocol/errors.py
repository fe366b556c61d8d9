# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Errors as OpenAI's API writes them, with what to do about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from genai_iface.errors import (
    BackendError,
    CacheOverflowError,
    GenAIError,
    InsufficientMemoryError,
    InvalidInputError,
    UnsupportedCapabilityError,
)

__all__ = ["GRAMMARS", "ApiError", "api_error_of", "invalid"]

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
GRAMMARS = ("json_schema", "regex", "lark_grammar")
"""Fields of ``GenerationConfig`` that are compiled."""

# A message of the generation names the field first: "top_p=2 is not legal", "regex is not legal: ...".
_FIELD = re.compile(r"[a-z][a-z_]+")


class ApiError(Exception):
    """What a client is told in place of an answer.

    Args:
        status: Of HTTP.
        message: What happened, with the value, and what to do.
        param: The field of the request that it is about, dotted.
        code: A word for programs.
        retry_after: Seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        # What a client sent may stand in the message, lone surrogates included.
        message = self.message.encode("utf-8", "replace").decode()
        param = None if self.param is None else self.param.encode("utf-8", "replace").decode()
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def invalid(param: str, message: str, *, code: str | None = None) -> ApiError:
    """The error for a field that is not legal."""
    return ApiError(400, message, param=param, code=code)


def api_error_of(error: GenAIError, names: Mapping[str, str], fields: Iterable[str]) -> ApiError:
    """An error of the generation as a client is told it.

    Args:
        error: What was raised.
        names: For fields of ``GenerationConfig`` the names that the request gave them.
        fields: Of ``GenerationConfig`` that were given; the faults of a grammar may show only while it is used.
    """
    message = str(error)
    if isinstance(error, CacheOverflowError):
        text = f"The prompt has {error.needed} tokens, and the model's context is {error.capacity}. Shorten the prompt."
        return ApiError(400, text, param=names.get("prompt"), code="context_length_exceeded")
    if isinstance(error, InsufficientMemoryError):
        return ApiError(503, message, code="insufficient_memory", retry_after=5)
    if isinstance(error, InvalidInputError | UnsupportedCapabilityError):
        if "a slot holds" in message:
            return ApiError(400, message, param=names.get("max_new_tokens"), code="context_length_exceeded")
        found = _FIELD.match(message)
        # Whatever names no field is about the prompt: its tokens, its characters, that it is empty.
        return ApiError(400, message, param=names.get(found[0] if found else "", names.get("prompt")))
    rule = next((field for field in GRAMMARS if field in fields), None)
    if isinstance(error, BackendError) and rule is not None and "llguidance" in message:
        return ApiError(400, message, param=names.get(rule))
    return ApiError(500, message)
