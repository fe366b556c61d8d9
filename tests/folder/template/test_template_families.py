# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``apply_chat_template`` renders what Transformers renders, or refuses what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest

from genai_iface import InvalidInputError
from genai_iface.folder.tokenizer import FolderTokenizer
from tests.generation.text.tokenizers_for_tests import byte_level
from tests.graph.families import FAMILIES

pytestmark = pytest.mark.parity

CALL = {
    "type": "function",
    "id": "abc123def",
    "function": {"name": "weather", "arguments": {"city": "Zürich <&>", "n": 2}},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a 'city',\nnow.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                    "unit": {"type": "string", "enum": ["°C", "°F"]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]
SYSTEM = {"role": "system", "content": ' Be "brief" & <b>clear</b>. '}
ASK, ANSWER = {"role": "user", "content": "  What is ünï?\n"}, {"role": "assistant", "content": "A word. "}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "weather", "content": '{"t": 21.5}'}
DOCUMENTS = [{"title": "One", "text": "First."}, {"title": "Two", "text": "Zwei 🙂", "doc_id": 7}]


@dataclasses.dataclass
class Part:
    type: str
    text: str


class Role(enum.StrEnum):
    USER = "user"


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [ASK],
    "system": [SYSTEM, ASK],
    "several turns": [SYSTEM, ASK, ANSWER, {"role": "user", "content": "And?"}],
    "ends with the assistant": [ASK, ANSWER],
    "thoughts in the text": [ASK, THOUGHT, ASK],
    "thoughts in the text at the end": [ASK, THOUGHT],
    "reasoning": [ASK, {**ANSWER, "reasoning": "So."}],
    "thinking": [ASK, {**ANSWER, "thinking": "So."}],
    "reasoning content": [ASK, {**ANSWER, "reasoning_content": "So."}, ASK],
    "a call": [SYSTEM, ASK, CALLED, RESULT],
    "a call and its answer": [ASK, CALLED, RESULT, ANSWER, ASK],
    "two calls": [ASK, {**CALLED, "tool_calls": [CALL, CALL]}, RESULT, RESULT],
    "arguments as text": [
        ASK,
        {**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a": 1}'}}]},
    ],
    "a result that is an object": [ASK, CALLED, {**RESULT, "content": {"content": [1, None, True]}}],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Look. "}]}],
    "rich objects": [{"role": Role.USER, "content": [Part("text", "typed"), {"type": "text", "text": np.str_("x")}]}],
    "numbers": [{"role": "user", "content": np.int64(5)}, {"role": "assistant", "content": 2.5}],
    "two users": [ASK, ASK],
    "an unknown role": [ASK, {"role": "critic", "content": "Hm."}],
    "no content": [{"role": "user"}],
    "system later": [ASK, ANSWER, SYSTEM, ASK],
    "empty text": [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
}  # fmt: skip

# What a template meets: its own refusal, or an operation of Python's or Jinja's that fails.
REFUSALS = (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "answer begins": {"add_generation_prompt": True},
    "tools": {"tools": TOOLS, "add_generation_prompt": True},
    "no tools": {"tools": []},
    "documents": {"documents": DOCUMENTS, "add_generation_prompt": True},
    "both": {"tools": TOOLS, "documents": DOCUMENTS},
    "no thinking": {"enable_thinking": False, "thinking": True, "add_generation_prompt": True},
    "variables": {
        "date_string": "1 Jan 2020",
        "controls": {"length": "short"},
        "reasoning_effort": "high",
        "bos_token": "<other>",
        "custom_tools": TOOLS[1:],
    },
    "a refused variable": {"reasoning_effort": np.int64(3)},
}


def folder_with(template: str, path: Path, **config: Any) -> Path:
    (path / "tokenizer.json").write_text(byte_level().to_json())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "chat_template.jinja").write_text(template, newline="")
    return path


class Both:
    """The two tokenizers of a folder."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.theirs = transformers.AutoTokenizer.from_pretrained(folder)
        self.ours = FolderTokenizer(folder)

    def render(self, messages: Any, **options: Any) -> tuple[str | None, str | None]:
        """What Transformers renders and what we render; None for a refusal."""
        given = {"add_generation_prompt": False, **options}
        ours: str | None = None
        theirs: str | None = None
        with contextlib.suppress(*REFUSALS):
            theirs = self.theirs.apply_chat_template(messages, tokenize=False, **given)
        with contextlib.suppress(InvalidInputError):
            ours = self.ours.apply_chat_template(messages, **given)
        return theirs, ours


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_renders_as_transformers_does(family: str, tmp_path: Path) -> None:
    both = Both(folder_with(FAMILIES[family], tmp_path))
    rendered = set()
    for name, messages in CONVERSATIONS.items():
        for option, given in OPTIONS.items():
            expected, ours = both.render(messages, **given)
            assert ours == expected, f"{name}, {option}"
            rendered.add(expected)
    # The families differ in what they refuse, but none refuses everything.
    assert len(rendered - {None}) > 15


DETAILS = {
    "json of everything": "{{ messages|tojson }}{{ messages|tojson(indent=2, sort_keys=true) }}",
    "json that is not ascii": "{{ messages|tojson(ensure_ascii=true) }}"
    "{{ {1: none, 'b': (1, 2.0)}|tojson(separators=(',', ':')) }}",
    "json of an undefined": "{{ nothing|tojson }}",
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token is defined }}|{{ image_token }}",
    "a name set in a generation block": "{% generation %}{% set a = 1 %}{{ a }}{% endgeneration %}{{ a is defined }}",
    "loop in a generation block": "{% for m in messages %}{% generation %}{{ loop.index }}"
    "{% endgeneration %}{% endfor %}",
    "time": "{{ strftime_now('%Y %Z|%z') }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys(['x', 'y'], 0) }}{{ dict([(1, 2)]) }}",
    "namespace": "{% set ns = namespace(self=1, b='x') %}{% set ns.c = 2 %}"
    "{{ ns.self }}{{ ns.b }}{{ ns.c }}{{ ns.d is defined }}",
    "hidden names": "{% set ns = namespace(_a=1) %}{{ ns._a }}",
    "hidden names later": "{% set ns = namespace() %}{% set ns._a = 1 %}x",
    "a message that refuses": "{{ raise_exception('no: ' ~ messages[0].role) }}",
    "attributes of text": "{{ messages[0].content.format(1) }}{{ messages[0].role.title() }}",
    "internals": "{{ messages[0].__class__ }}",
    "lists of parts": "{% for m in messages %}"
    "{{ m.content if m.content is string else m.content|map(attribute='text')|join }}{% endfor %}",
    "line statements": "\n\n{% if true %}\n  a\n{% endif %}\n\n  {%- if true +%}\n b{% endif %}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", DETAILS)
def test_details(name: str, tmp_path: Path) -> None:
    both = Both(folder_with(DETAILS[name], tmp_path, image_token="<img>"))
    for messages in ([ASK], [SYSTEM, ASK, ANSWER], CONVERSATIONS["rich objects"], [CALLED]):
        expected, ours = both.render(messages, tools=TOOLS)
        assert ours == expected


def test_a_template_for_tools_is_chosen_when_tools_are_given(tmp_path: Path) -> None:
    folder = folder_with("plain", tmp_path)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with {{ tools|length }}")
    for tools, expected in ((None, "plain"), ([], "with 0"), (TOOLS, "with 2")):
        assert Both(folder).render([ASK], tools=tools) == (expected, expected)


def test_what_is_no_message_is_refused(tmp_path: Path) -> None:
    both = Both(folder_with("x", tmp_path))
    for messages, tools in (([], None), (["text"], None), ([ASK], ["text"])):
        assert both.render(messages, tools=tools) == (None, None)
