# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a server is told: where it listens, what it lets in, when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from genai_iface.errors import InvalidInputError

__all__ = ["ServerSettings", "read_api_keys"]

_MAX_KEY_FILE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How to serve.

    Attributes:
        host: The address to listen at; other machines reach one that is not of the loopback.
        port: The port; 0 for a free one.
        model_name: The name of the model in requests and answers.
        aliases: Further names of it.
        api_keys: Whoever shows one of them is let in; empty to let everybody in.
        slots: Sequences that run at once.
        capacity: Most tokens of one request, prompt included; None for the model's context.
        token_budget: Most tokens of one step, over all slots.
        max_queue: Sequences that may wait for a slot; more are turned away with 429.
        max_body_bytes: Largest request.
        request_seconds: Most seconds of one answer, the wait for a slot included; None for no limit.
        drain_seconds: How long a server that stops lets its answers go on before it cuts them.
        tool_parser: How tool calls and reasoning are written: a format's name, "auto" for what the model's chat
            template says, or "none" to leave the text alone.
        prefix_bytes: Most bytes of the cache that finished requests may keep, for prompts that begin so; 0 for none.

    Raises:
        InvalidInputError: A value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "model"
    aliases: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    slots: int = 8
    capacity: int | None = None
    token_budget: int = 256
    max_queue: int = 64
    max_body_bytes: int = 4 * 2**20
    request_seconds: float | None = None
    drain_seconds: float = 30.0
    tool_parser: str = "auto"
    prefix_bytes: int = 2**30

    def __post_init__(self) -> None:
        for name, (legal, words) in _RANGES.items():
            value = getattr(self, name)
            if not legal(value):
                raise InvalidInputError(f"{name}={value!r} is not legal", remedy=f"Legal: {words}.")
        if not all((self.model_name, *self.aliases)):
            raise InvalidInputError("A name of the model is empty", remedy="Give it at least one character.")

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the model, the main one first."""
        return (self.model_name, *self.aliases)


def read_api_keys(path: str | PathLike[str], /) -> tuple[str, ...]:
    """The keys in a file, one a line; lines that are empty or begin with "#" are none.

    Raises:
        InvalidInputError: The file cannot be read, or holds no key.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_KEY_FILE).decode("utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"The keys in {str(path)!r} cannot be read: {error}",
            remedy="Give a readable file in UTF-8, one key a line.",
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InvalidInputError(f"There is no key in {str(path)!r}", remedy="Write one key a line.")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise InvalidInputError(
            f"A key in {str(path)!r} cannot stand in a header", remedy="Use ASCII without blanks, one key a line."
        )
    return keys


def _at_least(low: float, *, none: bool = False, integer: bool = True) -> Callable[[Any], bool]:
    kinds = (int,) if integer else (int, float)

    def legal(value: Any) -> bool:
        if value is None:
            return none
        return isinstance(value, kinds) and not isinstance(value, bool) and value >= low

    return legal


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "port": (lambda value: isinstance(value, int) and 0 <= value < 65536, "an integer from 0 to 65535"),
    "slots": (_at_least(1), "an integer of at least 1"),
    "capacity": (_at_least(1, none=True), "an integer of at least 1, or None"),
    "token_budget": (_at_least(1), "an integer of at least 1, and of at least slots"),
    "max_queue": (_at_least(0), "an integer of at least 0"),
    "max_body_bytes": (_at_least(1), "an integer of at least 1"),
    "request_seconds": (
        lambda value: value is None or _at_least(0, integer=False)(value),
        "a number of seconds, or None",
    ),
    "drain_seconds": (_at_least(0, integer=False), "a number of seconds"),
    "prefix_bytes": (_at_least(0), "an integer of at least 0"),
}
