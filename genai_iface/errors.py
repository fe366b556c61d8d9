# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the interface.

    GenAIError
     +-- InvalidInputError           an argument or a file of the model folder is not legal
     |    +-- InsufficientMemoryError     a cache would need more memory than there is
     |    +-- OutputError                 a file or folder cannot be written: no room, no permission
     +-- UnsupportedModelError       the model is well formed, but its graph is not understood
     +-- UnsupportedCapabilityError  the backend, or this model on it, cannot do what was asked
     +-- InterfaceVersionError       SDK and backend share no interface version
     +-- CacheOverflowError          a row of the cache has no room for the new tokens
     +-- CacheRewindError            a row cannot go back to the length asked for
     +-- BackendNotFoundError        no such backend, or its runtime is not installed
     +-- BackendError                the runtime itself failed; its own exception is the cause

A message says what happened, with which value, and then what to do about it: that last part is
also kept in ``remedy``.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BackendError",
    "BackendNotFoundError",
    "CacheOverflowError",
    "CacheRewindError",
    "GenAIError",
    "InsufficientMemoryError",
    "InterfaceVersionError",
    "InvalidInputError",
    "OutputError",
    "UnsupportedCapabilityError",
    "UnsupportedModelError",
]


class GenAIError(Exception):
    """Base of every error that the interface raises on purpose.

    Args:
        what: What happened, with the offending value; one sentence without a final stop.
        remedy: What the caller can do about it.
    """

    def __init__(self, what: str, *, remedy: str = "") -> None:
        self.what = what.rstrip(". ")
        self.remedy = remedy.strip()
        super().__init__(f"{self.what}. {self.remedy}".strip() if self.remedy else f"{self.what}.")

    def __reduce__(self) -> tuple[object, ...]:
        # Exception.__reduce__ would call __init__ with the finished message and lose the remedy.
        return _rebuild, (type(self), self.args, self.__dict__)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest of some names, nothing where none is near; for the end of a remedy."""
    import difflib  # noqa: PLC0415 - only errors need it

    found = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def _rebuild(cls: type[GenAIError], args: tuple[object, ...], state: dict[str, object]) -> GenAIError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidInputError(GenAIError, ValueError):
    """An argument, a configuration value or a file of the model folder is not legal."""


class InsufficientMemoryError(InvalidInputError):
    """A cache would need more memory than there is. Nothing was allocated.

    Args:
        what: The message, with the arithmetic that gave the number of bytes.
        needed: Bytes that the whole cache takes.
        available: Bytes that there are for it.
    """

    def __init__(self, what: str, *, needed: int, available: int) -> None:
        self.needed, self.available = needed, available
        super().__init__(
            what,
            remedy="Use fewer rows or slots, a smaller capacity or max_new_tokens, or raise memory_limit if you know "
            "better.",
        )


class OutputError(InvalidInputError):
    """A file or folder cannot be written: the disk is full, a permission is missing. Nothing half-written is left."""


class UnsupportedModelError(GenAIError):
    """The folder is well formed, but its graph follows no pattern that can be driven."""


class UnsupportedCapabilityError(GenAIError):
    """What was asked needs a capability that this backend or this model does not declare.

    Args:
        what: What was asked.
        capability: The missing capability, a name from ``genai_iface.capabilities``; empty where
            the missing thing has no capability name.
        remedy: What the caller can do about it.
    """

    def __init__(self, what: str, *, capability: str = "", remedy: str = "") -> None:
        self.capability = str(capability)
        super().__init__(what, remedy=remedy)


class InterfaceVersionError(GenAIError):
    """The SDK and the backend have no interface version in common."""


class CacheOverflowError(GenAIError):
    """A row has no room for the new tokens. The cache is as it was before the call.

    Args:
        row: The first row that does not fit; with ``is_prompt``, the first prompt.
        needed: Tokens that this row would hold after the step, or that the prompt has.
        capacity: Tokens that it can hold, or that the model takes.
        is_prompt: No cache was made yet: a prompt is longer than the model's context.
    """

    def __init__(self, row: int, needed: int, capacity: int, *, is_prompt: bool = False) -> None:
        self.row, self.needed, self.capacity = int(row), int(needed), int(capacity)
        if is_prompt:
            what = f"Prompt {self.row} has {self.needed} tokens, and the model takes at most {self.capacity}"
            remedy = "Shorten it, or take a model with a longer context."
        else:
            what = f"Row {self.row} of the cache would hold {self.needed} tokens, its capacity is {self.capacity}"
            remedy = "Create the cache with a larger capacity, or rewind or reset the row first."
        super().__init__(what, remedy=remedy)


class CacheRewindError(GenAIError):
    """A row cannot go back to the length asked for, because the positions it needs were overwritten.

    Args:
        row: The first row that cannot be rewound.
        requested: The length asked for.
        length: The row's length.
        reason: Why not, as a clause.
    """

    def __init__(self, row: int, requested: int, length: int, reason: str) -> None:
        self.row, self.requested, self.length = int(row), int(requested), int(length)
        super().__init__(
            f"Row {self.row} has {self.length} tokens and cannot go back to {self.requested}: {reason}",
            remedy="Ask can_rewind_to() first; reset the row and run its tokens again.",
        )


class BackendNotFoundError(GenAIError):
    """No backend of that name is installed, or the runtime that it needs is missing."""


class BackendError(GenAIError):
    """The runtime failed. Its own exception is in ``__cause__``."""
