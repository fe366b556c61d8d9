# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A parser that is driven by marks: what stands between two of them is reasoning, calls, content, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from genai_iface.serving.output.events import Call, Content, Found, Reasoning

__all__ = ["Span", "SpanParser"]

Reader: TypeAlias = Callable[[str], list[Call] | None]
"""The calls that a text makes, None if it makes none."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the output.

    Attributes:
        start: What it begins with.
        end: What may end it, the first of these that comes; none for the end of the output.
        kind: What it is.
        read: For "calls", reads what stands inside.
        keeps_end: Whether the end is the start of what follows.
    """

    start: str
    end: tuple[str, ...]
    kind: Literal["content", "reasoning", "calls", "nothing"]
    read: Reader | None = None
    keeps_end: bool = False


class SpanParser:
    """Finds spans in a text that comes in pieces.

    Text outside of spans is content. Nothing is lost: a span of calls that cannot be read is
    content, its marks included.

    Args:
        spans: What to look for.
        inside: A span that the output begins in, because the prompt has opened it.
        bare: Reads an output that begins with a brace as calls, without any mark.
    """

    def __init__(self, spans: Sequence[Span], *, inside: Span | None = None, bare: Reader | None = None) -> None:
        self._spans = tuple(spans)
        self._bare = bare
        self._text = ""
        # What the span began with, as far as it was in the output.
        self._span, self._opening = inside, ""
        # White space between spans is layout, not content.
        self._strips = False
        self._has_begun = inside is not None

    @property
    def is_reasoning(self) -> bool:
        """Whether the output is inside a span of reasoning."""
        return self._span is not None and self._span.kind == "reasoning"

    def push(self, text: str) -> list[Found]:
        """Takes a piece and gives what is certain by now."""
        self._text += text
        found: list[Found] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> list[Found]:
        """Gives what is left, at the end of the output."""
        found: list[Found] = []
        span, text, self._text = self._span, self._text, ""
        if span is None:
            self._add_content(found, text)
        else:
            self._close(found, span, text, "")
        self._span = None
        return found

    def _step(self, found: list[Found]) -> bool:
        """Goes one mark further; False where more text is needed."""
        if not self._has_begun and not self._begin():
            return False
        return self._outside(found) if self._span is None else self._inside(found, self._span)

    def _begin(self) -> bool:
        start = self._text.lstrip()
        if not start:
            return self._bare is None and bool(self._text)
        self._has_begun = True
        if self._bare is not None and start[0] == "{" and not any(start.startswith(s.start) for s in self._spans):
            self._span = Span("", (), "calls", self._bare)
        return True

    def _outside(self, found: list[Found]) -> bool:
        places = [(at, -len(span.start), span) for span in self._spans if (at := self._text.find(span.start)) >= 0]
        if not places:
            kept = _overlap(self._text, [span.start for span in self._spans])
            self._add_content(found, self._text[: len(self._text) - kept])
            self._text = self._text[len(self._text) - kept :]
            return False
        at, _, span = min(places, key=lambda place: place[:2])
        # A longer mark may begin at the same place.
        if any(other.start.startswith(self._text[at:]) and other is not span for other in self._spans):
            self._add_content(found, self._text[:at])
            self._text = self._text[at:]
            return False
        self._add_content(found, self._text[:at])
        self._text = self._text[at + len(span.start) :]
        self._span, self._opening = span, span.start
        return True

    def _inside(self, found: list[Found], span: Span) -> bool:
        ends = [(at, end) for end in span.end if (at := self._text.find(end)) >= 0]
        if not ends:
            if span.kind in ("reasoning", "content"):
                kept = _overlap(self._text, span.end)
                self._stream(found, span, self._text[: len(self._text) - kept])
                self._text = self._text[len(self._text) - kept :]
            return False
        at, end = min(ends)
        body = self._text[:at]
        self._text = self._text[at if span.keeps_end else at + len(end) :]
        self._span = None
        self._close(found, span, body, "" if span.keeps_end else end)
        return True

    def _close(self, found: list[Found], span: Span, body: str, end: str) -> None:
        if span.kind in ("reasoning", "content"):
            self._stream(found, span, body)
        elif span.kind == "calls":
            calls = span.read(body) if span.read is not None else None
            if calls:
                found.extend(calls)
            else:
                self._strips = False
                self._add_content(found, self._opening + body + end)
                return
        self._strips = True

    def _stream(self, found: list[Found], span: Span, text: str) -> None:
        if span.kind == "content":
            self._add_content(found, text)
        elif text:
            found.append(Reasoning(text))

    def _add_content(self, found: list[Found], text: str) -> None:
        if self._strips:
            text = text.lstrip()
        if text:
            self._strips = False
            found.append(Content(text))


def _overlap(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    longest = max((len(mark) for mark in marks), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[len(text) - size :]
        if any(mark.startswith(tail) for mark in marks):
            return size
    return 0
