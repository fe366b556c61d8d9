# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The form in which a model writes, as ``response_template`` of its tokenizer_config.json says it (Transformers 5.24).

Marks are literals here. Templates whose marks are regular expressions are left alone: they are a stranger's, and one
that takes for ever on some output would hold up all requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from genai_iface.serving.output.events import NO_JSON, Call, call_of, parsed
from genai_iface.serving.output.formats import Format
from genai_iface.serving.output.spans import Reader, Span

__all__ = ["format_of_template"]

_KINDS: Mapping[str, Literal["content", "reasoning", "calls"]] = {
    "content": "content",
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",
    "thinking": "reasoning",
    "tool_calls": "calls",
}
_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
_MOST_DEPTH = 32


def format_of_template(template: object) -> Format | None:
    """The form that a response template describes, None if it has something that is not understood here."""
    fields = template.get("fields") if isinstance(template, dict) and template.get("version", 1) == 1 else None
    if not isinstance(fields, dict) or not fields:
        return None
    spans: list[Span] = []
    for name, field in fields.items():
        found = _spans_of(name, field) if isinstance(field, dict) else None
        if found is None:
            return None
        spans += found
    return Format(
        tuple(span for span in spans if span.kind != "reasoning"),
        tuple(span for span in spans if span.kind == "reasoning"),
        needs_special_tokens=True,
        is_always_parsed=any(span.kind == "content" for span in spans),
    )


def _spans_of(name: str, field: Mapping[str, Any]) -> list[Span] | None:
    kind = _KINDS.get(name)
    opens, closes = _literals(field.get("open")), _literals(field.get("close"))
    if kind is None or {"open_pattern", "close_pattern"} & field.keys() or opens is None or closes is None:
        return None
    if not opens:
        # What stands outside of all marks is content in any case.
        return [] if kind == "content" else None
    read = None
    if kind == "calls":
        if field.get("content") != "json" or field.get("content_args"):
            return None
        read = _reader(field.get("transform"), each=field.get("transform_each") is True)
    elif field.get("content", "text") != "text":
        return None
    return [Span(start, tuple(closes), kind, read) for start in opens]


def _literals(value: object) -> list[str] | None:
    """The marks of one end; empty for none, None if they are no texts."""
    if value is None:
        return []
    found = [value] if isinstance(value, str) else value
    return found if isinstance(found, list) and all(isinstance(one, str) and one for one in found) else None


def _reader(transform: object, *, each: bool) -> Reader:
    def read(text: str) -> list[Call] | None:
        value = parsed(text)
        if value is NO_JSON:
            return None
        items = value if each else [value]
        if not isinstance(items, list):
            return None
        calls: list[Call] = []
        for item in items:
            scope = item if each else {"content": item}
            if not isinstance(scope, dict):
                return None
            made = item if transform is None else _filled(transform, scope, 0)
            found = [_call(one) for one in (made if isinstance(made, list) else [made])]
            if not all(found):
                return None
            calls += [call for call in found if call is not None]
        return calls or None

    return read


def _call(value: object) -> Call | None:
    inner = value.get("function", value) if isinstance(value, dict) else None
    return call_of(inner.get("name"), inner.get("arguments")) if isinstance(inner, dict) else None


def _filled(transform: object, scope: Mapping[str, Any], depth: int) -> object:
    """A transform with its placeholders replaced; None for what is not there."""
    if depth > _MOST_DEPTH:
        return None
    if isinstance(transform, dict):
        return {key: _filled(value, scope, depth + 1) for key, value in transform.items()}
    if isinstance(transform, list):
        return [_filled(value, scope, depth + 1) for value in transform]
    place = _PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    if place is None:
        return transform
    value: Any = scope
    for key in place[1].split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
