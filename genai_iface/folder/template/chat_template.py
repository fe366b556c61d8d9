# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: Jinja as Transformers runs it, in a process that bounds time and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from genai_iface.errors import InvalidInputError
from genai_iface.folder.template.pool import TemplateProcesses

__all__ = ["ChatTemplate"]

_MAX_SOURCE = 2**20
_MAX_SECONDS = 5.0

# By kind of answer: what happened, and what to do about it.
_ERRORS = {
    "stopped": ("was stopped: ", "Use a template from a source that you trust, or a shorter conversation."),
    "forbidden": ("did something forbidden: ", "Use a template from a source that you trust."),
    "refused": ("refused the messages: ", "Change the messages as it asks."),
    "failed": ("failed: ", "Check the messages' roles and contents, or repair the template."),
    "syntax": ("is broken at line ", "Repair the template."),
    "invalid": ("cannot be compiled: ", "Repair the template."),
}


class ChatTemplate:
    """One template.

    Nothing of it runs in this process; it is compiled when it is first rendered.

    Args:
        source: The text of the Jinja template.
        where: The file it comes from, for messages.
        seconds: What one rendering may take.

    Raises:
        InvalidInputError: It is too large.
    """

    def __init__(self, source: str, where: str, *, seconds: float = _MAX_SECONDS) -> None:
        self._where = where
        if len(source) > _MAX_SOURCE:
            raise InvalidInputError(
                f"The chat template in {where!r} has {len(source)} characters, at most {_MAX_SOURCE} are read",
                remedy="Use the template of the checkpoint.",
            )
        self._processes = TemplateProcesses(source, seconds)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Renders the template.

        Args:
            variables: What the template sees. Mappings, sequences, dataclasses and numbers of NumPy become plain
                data; any other object becomes a text that names its type, so that nothing of it can be called.

        Raises:
            InvalidInputError: The template is broken, refused its input, failed, or went over a limit.
            UnsupportedCapabilityError: Its process cannot be started here.
        """
        try:
            answer = self._processes.render(_plain(variables))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"The messages cannot be given to the chat template in {self._where!r}: {error}",
                remedy="Pass plain data: texts, numbers, lists and mappings, not nested in themselves.",
            ) from error
        if answer.kind == "text":
            return answer.text
        happened, remedy = _ERRORS.get(answer.kind, _ERRORS["failed"])
        raise InvalidInputError(f"The chat template in {self._where!r} {happened}{answer.text}", remedy=remedy)

    def close(self) -> None:
        """Ends the process that renders; a later rendering starts one again."""
        self._processes.close()


def _plain(value: Any) -> Any:
    """Plain data in place of richer objects, which may have methods that a template must not call."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    # Of a subclass, such as an enumeration, the value itself.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return f"<{type(value).__name__}>"
