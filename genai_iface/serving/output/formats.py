# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The forms in which open models write calls and reasoning, and how to tell them from a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from genai_iface.errors import InvalidInputError
from genai_iface.serving.output.events import NO_JSON, Call, call_of, parsed
from genai_iface.serving.output.spans import Reader, Span, SpanParser

__all__ = ["FORMATS", "NO_FORMAT", "Format", "choose_format"]


@dataclass(frozen=True, slots=True)
class Format:
    """How a model writes.

    Attributes:
        calls: Spans of calls, and what belongs to them.
        reasoning: Spans of reasoning, in this form anyway; others are found by their marks in the template.
        bare: Reads calls that have no marks.
        needs_special_tokens: Whether its marks are special tokens, which a text usually leaves out.
        is_always_parsed: Whether the output has marks even where no calls are wanted.
    """

    calls: tuple[Span, ...] = ()
    reasoning: tuple[Span, ...] = ()
    bare: Reader | None = None
    needs_special_tokens: bool = False
    is_always_parsed: bool = False

    def parser(self, *, with_calls: bool, prompt: str) -> SpanParser | None:
        """A parser for one output, None where there is nothing to find.

        Args:
            with_calls: Whether calls are looked for.
            prompt: The rendered conversation, which may have opened a span.
        """
        spans = (*self.reasoning, *(self.calls if with_calls or self.is_always_parsed else ()))
        bare = self.bare if with_calls else None
        if not spans and bare is None:
            return None
        tail = prompt.rstrip()
        inside = next((span for span in self.reasoning if tail.endswith(span.start)), None)
        return SpanParser(spans, inside=inside, bare=bare)


def _one(text: str) -> list[Call] | None:
    """One object: {"name": ..., "arguments": {...}}."""
    return _from_object(parsed(text))


def _from_object(value: object) -> list[Call] | None:
    if not isinstance(value, dict):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    call = call_of(value.get("name"), arguments)
    return None if call is None else [call]


def _list(text: str) -> list[Call] | None:
    """[{"name": ..., "arguments": {...}}, ...], or one of them."""
    value = parsed(text)
    calls = [_from_object(item) for item in (value if isinstance(value, list) else [value])]
    return None if not all(calls) else [call for found in calls if found for call in found]


def _mistral(text: str) -> list[Call] | None:
    """A list, or NAME[ARGS]{...} of newer models."""
    name, mark, arguments = text.partition("[ARGS]")
    if not mark:
        return _list(text)
    call = call_of(re.sub(r"\[CALL_ID\].*", "", name), arguments)
    return None if call is None else [call]


def _llama(text: str) -> list[Call] | None:
    """{"name": ..., "parameters": {...}}, several of them with semicolons between."""
    decoder, calls, at = json.JSONDecoder(), [], 0
    text = text.strip()
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        found = _from_object(value)
        if found is None:
            return None
        calls += found
        rest = text[at:].lstrip()
        if rest and not rest.startswith(";"):
            return None
        at = len(text) - len(rest.lstrip("; \n\t\r"))
    return calls or None


_XML_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>)?\s*", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _xml(text: str) -> list[Call] | None:
    """<function=NAME> with <parameter=KEY> of Qwen's coders; a value that is JSON is read as such."""
    match = _XML_FUNCTION.fullmatch(text)
    if match is None:
        return _one(text)
    if _XML_PARAMETER.sub("", match[2]).strip():
        return None
    arguments = {key: _value(value) for key, value in _XML_PARAMETER.findall(match[2])}
    call = call_of(match[1], arguments)
    return None if call is None else [call]


def _value(text: str) -> object:
    value = parsed(text)
    return text if value is NO_JSON else value


_DEEPSEEK_CALL = re.compile(
    r"\s*<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>(?P<name>[^\n]+)\n```json\n(?P<fenced>.*?)\n```"
    r"|(?P<newer>[^<\n]+)<｜tool▁sep｜>(?P<arguments>.*?))\s*<｜tool▁call▁end｜>\s*",
    re.DOTALL,
)


def _deepseek(text: str) -> list[Call] | None:
    """Calls with marks of their own, the arguments fenced in older models."""
    calls, at = [], 0
    while at < len(text):
        match = _DEEPSEEK_CALL.match(text, at)
        call = match and call_of(match["name"] or match["newer"], match["fenced"] or match["arguments"])
        if not match or not call:
            return None
        calls.append(call)
        at = match.end()
    return calls or None


_HARMONY_CALL = re.compile(
    r"\s*(?:functions\.)?([\w.-]+)\s*(?:<\|channel\|>\s*\w+)?\s*(?:<\|constrain\|>)?\s*\w*\s*<\|message\|>(.*)",
    re.DOTALL,
)


def _harmony(text: str) -> list[Call] | None:
    """A name, perhaps with what the message is written in, then the arguments: functions.NAME<|message|>{...}."""
    match = _HARMONY_CALL.fullmatch(text)
    call = match and call_of(match[1], match[2])
    return [call] if call else None


_HARMONY_ENDS = ("<|call|>", "<|end|>", "<|return|>", "<|start|>assistant")
_THINK = (Span("<think>", ("</think>",), "reasoning"), Span("[THINK]", ("[/THINK]",), "reasoning"))

NO_FORMAT = Format()

FORMATS: Mapping[str, Format] = {
    "hermes": Format((Span("<tool_call>", ("</tool_call>",), "calls", _one),)),
    "qwen_xml": Format((Span("<tool_call>", ("</tool_call>",), "calls", _xml),)),
    "llama_json": Format((Span("<|python_tag|>", (), "calls", _llama),), bare=_llama, needs_special_tokens=True),
    "mistral": Format(
        (Span("[TOOL_CALLS]", ("[TOOL_CALLS]",), "calls", _mistral, keeps_end=True),), needs_special_tokens=True
    ),
    "deepseek": Format(
        (Span("<｜tool▁calls▁begin｜>", ("<｜tool▁calls▁end｜>",), "calls", _deepseek),), needs_special_tokens=True
    ),
    "harmony": Format(
        (
            Span("<|channel|>commentary to=", _HARMONY_ENDS, "calls", _harmony),
            Span(" to=functions.", _HARMONY_ENDS, "calls", _harmony),
            Span("<|channel|>commentary<|message|>", _HARMONY_ENDS, "content"),
            Span("<|channel|>final<|message|>", _HARMONY_ENDS, "content"),
            Span("<|start|>assistant", ("<|channel|>", " to="), "nothing", keeps_end=True),
            Span("<|end|>", ("",), "nothing"),
        ),
        (Span("<|channel|>analysis<|message|>", _HARMONY_ENDS, "reasoning"),),
        needs_special_tokens=True,
        is_always_parsed=True,
    ),
}

# The first whose test holds for the template is taken.
_TESTS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("harmony", lambda text: "<|channel|>" in text and "<|message|>" in text),
    ("deepseek", lambda text: "<｜tool▁calls▁begin｜>" in text),
    ("mistral", lambda text: "[TOOL_CALLS]" in text),
    ("qwen_xml", lambda text: "<tool_call>" in text and "<function=" in text),
    ("hermes", lambda text: "<tool_call>" in text),
    ("llama_json", lambda text: "<|python_tag|>" in text or ("ipython" in text and '"parameters"' in text)),
)


def choose_format(name: str, template: str) -> Format:
    """The format of a model.

    Args:
        name: Of a format, "auto" or "none".
        template: The text of the model's chat template; empty for none.

    Raises:
        InvalidInputError: There is no such format.
    """
    if name == "none":
        return NO_FORMAT
    if name != "auto" and name not in FORMATS:
        raise InvalidInputError(
            f"There is no tool parser {name!r}", remedy=f"Legal: auto, none, {', '.join(sorted(FORMATS))}."
        )
    if name == "auto":
        name = next((candidate for candidate, holds in _TESTS if holds(template)), "")
    chosen = FORMATS.get(name, NO_FORMAT)
    thinking = tuple(span for span in _THINK if span.start in template or span.end[0] in template)
    if not thinking:
        return chosen
    return Format(
        chosen.calls,
        (*chosen.reasoning, *thinking),
        chosen.bare,
        chosen.needs_special_tokens or thinking[0].start == "[THINK]",
        chosen.is_always_parsed,
    )
