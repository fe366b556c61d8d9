# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: what Transformers' templates use works. What hostile ones do is in test_template_attacks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from genai_iface import InvalidInputError
from genai_iface.folder.template.chat_template import ChatTemplate

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<é> & 'x'"},
    {"role": "assistant", "content": "<think>hm</think>Yes."},
]

TURNS, USER = "system1False user2False assistant3True ", "<é> & 'x'\n"


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source, "chat_template.jinja").render({"messages": CONVERSATION, **variables})


WORKING = [
    ("{% for m in messages %}{{ m.role }}{{ loop.index }}{{ loop.last }} {% endfor %}", TURNS),
    ("{% for m in messages %}\n  {% if m['role'] == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}", USER),
    ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02345678"),
    ("{% for i in range(9) %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "0123"),
    ("{% for m in messages if m.role != 'user' %}{{ loop.length }}{{ loop.first }}{% endfor %}", "2True2False"),
    ("{% generation %}{{ messages|length }} turns{% endgeneration %}.", "3 turns."),
    ("{{ {'b': 'é<', 'a': [1]}|tojson }}", '{"b": "é<", "a": [1]}'),
    ("{{ {'b': 1, 'a': 'é'}|tojson(sort_keys=true, ensure_ascii=true) }}", '{"a": "\\u00e9", "b": 1}'),
    ("{{ [1, {'a': 2}]|tojson(indent=2) }}", '[\n  1,\n  {\n    "a": 2\n  }\n]'),
    ("{{ [1, 2]|tojson(separators=(',', ':')) }}", "[1,2]"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
    ("{% macro f(m) %}[{{ m.role }}]{% endmacro %}{{ f(messages[0]) ~ f(messages[1]) }}", "[system][user]"),
    ("{{ messages[2].content.split('</think>')[-1].strip() }}", "Yes."),
    ("{{ messages[::-1]|map(attribute='role')|join(', ') }}", "assistant, user, system"),
    ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
    ("{% set a, b = 1, [2, (3,)] %}{{ a }}{{ b }}", "1[2, (3,)]"),
    ("{% for k, v in {'x': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "x=1"),
    ("{% set x %}{{ 'a' * 3 }}{% endset %}{{ x|upper }}{{ x + 'b' }}", "AAAaaab"),
    ("{{ '%s-%03d' % ('a', 7) }}{{ '{:>3}'.format('b') }}{{ 'ab'|replace('a', 'c') }}", "a-007  bcb"),
    ("{{ dict(a=1) }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 7 % 4 }}", "{'a': 1}310243"),
    ("{{ undefined_name }}{{ undefined_name is defined }}{{ messages[0].nothing is none }}", "FalseFalse"),
    ("{% if tools is not none %}x{% endif %}{{ eos_token }}", "<|eos|>"),
    ("{{ 'a'|indent(2, true) }}{{ '  b '|trim }}{{ none|default('d', true) }}", "  abd"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), WORKING)
def test_what_templates_use(source: str, expected: str) -> None:
    assert render(source, tools=None, eos_token="<|eos|>") == expected


@pytest.mark.parity
@pytest.mark.parametrize("source", [source for source, _ in WORKING])
def test_transformers_renders_the_same(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    (theirs,), _ = render_jinja_template([CONVERSATION], chat_template=source, eos_token="<|eos|>")
    assert theirs == render(source, tools=None, eos_token="<|eos|>")


def test_the_time_of_day() -> None:
    assert re.fullmatch(r"20\d\d-\d\d", render("{{ strftime_now('%Y-%m') }}"))


def test_a_template_may_refuse() -> None:
    with pytest.raises(InvalidInputError, match="refused the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_arguments_are_not_changed() -> None:
    with pytest.raises(InvalidInputError, match="forbidden"):
        render("{{ messages.append(1) }}")
    with pytest.raises(InvalidInputError, match="forbidden"):
        render("{{ messages[0].update(role='x') }}")
    assert len(CONVERSATION) == 3


def test_a_long_conversation_stays_within_the_limits() -> None:
    """2,000 turns of 1,000 characters, with the operations that templates make for each."""
    source = (
        "{% for m in messages %}{% if loop.index0 % 2 == 0 and m.role != 'user' %}{{ raise_exception('x') }}{% endif %}"
        "{% set content = m.content.split('</think>')[-1]|trim %}"
        "{{ '<|im_start|>' ~ m.role ~ '\\n' + content + '<|im_end|>' }}{% endfor %}"
    )
    messages = [{"role": ("user", "assistant")[n % 2], "content": "word " * 200} for n in range(2000)]
    assert len(render(source, messages=messages)) > 2_000_000


def test_renderings_do_not_share_a_budget() -> None:
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}ok", "chat_template.jinja", seconds=1)
    assert [template.render({}) for _ in range(200)] == ["ok"] * 200


def test_a_long_prompt_needs_a_long_conversation() -> None:
    """Four million characters, or eight times what goes in."""
    assert len(render("{{ 'a' * 4000000 }}")) == 4_000_000
    with pytest.raises(InvalidInputError, match="more than 4194304 characters"):
        render("{{ 'a' * 4200000 }}")
    assert len(render("{{ text * 4 }}", text="é" * 2_000_000)) == 8_000_000
    with pytest.raises(InvalidInputError, match=r"the conversation takes 7\d+ bytes, at most 67108864"):
        render("", text="a" * 70_000_000)


def test_values_arrive_as_they_are() -> None:
    values = [None, True, 3, 2**200, 2.5, float("inf"), "\ud800", (1, (2,)), {1: {"a": None}, None: 2, (1, 2): 3}, []]
    for value in values:
        assert render("{{ value }}", value=value) == str(value)
    with pytest.raises(InvalidInputError, match="cannot be given"):
        nested: list[Any] = []
        nested.append(nested)
        render("", value=nested)
