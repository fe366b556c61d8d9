# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``response_template`` of tokenizer_config.json, against what Transformers makes of the same outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genai_iface.folder import FolderTokenizer
from genai_iface.serving.output.events import Call, Content, Reasoning
from genai_iface.serving.output.templates import format_of_template
from tests.models import write_folder

CALLED = {"type": "function", "function": {"name": "{content.name}", "arguments": "{content.arguments}"}}
QWEN: dict[str, Any] = {
    "version": 1,
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>"},
        "content": {},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "repeats": True,
            "transform": CALLED,
        },
    },
}
LISTED: dict[str, Any] = {
    "start_anchor": "[/INST]",
    "fields": {
        "content": {},
        "tool_calls": {
            "open": ["[TOOL_CALLS]", "[CALLS]"],
            "content": "json",
            "transform_each": True,
            "transform": {"type": "function", "function": {"name": "{fn}", "arguments": "{args}"}},
        },
    },
}
MARKED: dict[str, Any] = {
    "start_anchor": "<s>",
    "fields": {
        "reasoning_content": {"open": "<a>", "close": ["</a>", "<b>"]},
        "content": {"open": "<b>", "close": "</b>"},
    },
}
ONE = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
SAID: list[tuple[dict[str, Any], str]] = [
    (QWEN, "Hello."),
    (QWEN, f"<think>Hm.</think>{ONE}"),
    (QWEN, f'<think>Hm.</think>Well.{ONE}<tool_call>{{"name": "g", "arguments": {{}}}}</tool_call>'),
    (LISTED, 'Sure. [TOOL_CALLS][{"fn": "f", "args": {"x": 1}}, {"fn": "g", "args": {}}]'),
    (LISTED, '[CALLS][{"fn": "f", "args": {"x": [1, {"y": null}]}}]'),
    (MARKED, "<a>why</a><b>that</b>"),
]


def message_of(template: dict[str, Any], text: str, size: int) -> dict[str, Any]:
    form = format_of_template(template)
    assert form is not None
    parser = form.parser(with_calls=True, prompt="")
    assert parser is not None
    found = [one for at in range(0, len(text), size) for one in parser.push(text[at : at + size])] + parser.finish()
    calls = [(one.name, json.loads(one.arguments)) for one in found if isinstance(one, Call)]
    return {
        "content": "".join(one.text for one in found if isinstance(one, Content)).strip(),
        "reasoning": "".join(one.text for one in found if isinstance(one, Reasoning)).strip(),
        "calls": calls,
    }


@pytest.mark.parity
@pytest.mark.parametrize(("template", "text"), SAID)
def test_outputs_are_read_as_transformers_reads_them(template: dict[str, Any], text: str) -> None:
    from transformers.utils.chat_parsing import parse_response

    theirs = parse_response(text, template, prefix="")
    called = theirs.get("tool_calls") or []
    expected = {
        "content": theirs.get("content", ""),
        "reasoning": theirs.get("thinking", theirs.get("reasoning_content", "")),
        "calls": [(call["function"]["name"], call["function"]["arguments"]) for call in called],
    }
    for size in (1, 7, 1000):
        assert message_of(template, text, size) == expected


@pytest.mark.parametrize("inner", ["{oops", '{"name": 3}', "[]", "{}", "7"])
def test_a_call_that_is_none_is_text(inner: str) -> None:
    text = f"<tool_call>{inner}</tool_call>"
    assert message_of(QWEN, text, 5) == {"content": text, "reasoning": "", "calls": []}


@pytest.mark.parametrize(
    "template",
    [
        None,
        [],
        {"version": 2, "fields": QWEN["fields"]},
        {"fields": {}},
        {"fields": {"content": 3}},
        {"fields": {"mood": {"open": "<m>"}}},
        {"fields": {"content": {"open": ""}}},
        {"fields": {"content": {"open_pattern": "(a+)+$"}}},
        {"fields": {"tool_calls": {"open": "<c>", "content": "xml-inline", "content_args": {"tag_pattern": "x"}}}},
        {"fields": {"thinking": {}}},
    ],
)
def test_what_is_not_understood_is_left_alone(template: Any) -> None:
    assert format_of_template(template) is None


def test_a_transform_may_be_deep() -> None:
    transform: Any = "{content}"
    for _ in range(5000):
        transform = [transform]
    field = {"open": "<c>", "close": "</c>", "content": "json", "transform": transform}
    assert message_of({"fields": {"tool_calls": field}}, "<c>{}</c>", 9)["calls"] == []


def test_the_folder_says_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    assert FolderTokenizer(folder).response_template is None
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "response_template": QWEN}), encoding="utf-8")
    assert FolderTokenizer(folder).response_template == QWEN
