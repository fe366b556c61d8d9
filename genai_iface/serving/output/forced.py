# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that a grammar makes certain: the whole output is a JSON list of them, whatever the model's own form is."""

from __future__ import annotations

from genai_iface.serving.output.events import Call, Content, Found, call_of, parsed

__all__ = ["ForcedParser"]


class ForcedParser:
    """Reads an output that ``forced_schema`` allows. What was cut off before its end is content."""

    def __init__(self) -> None:
        self._text = ""

    @property
    def is_reasoning(self) -> bool:
        """A grammar lets no reasoning through."""
        return False

    def push(self, text: str) -> list[Found]:
        """Takes a piece; nothing is certain before the end."""
        self._text += text
        return []

    def finish(self) -> list[Found]:
        """The calls, or the text if it is none."""
        value = parsed(self._text)
        calls = [
            call_of(item.get("name"), item.get("arguments")) if isinstance(item, dict) else None
            for item in (value if isinstance(value, list) else [None])
        ]
        found: list[Found] = [call for call in calls if isinstance(call, Call)]
        if len(found) == len(calls):
            return found
        return [Content(self._text)] if self._text else []
