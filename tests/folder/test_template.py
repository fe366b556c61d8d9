# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: what Transformers' templates use works, hostile ones end quickly with one error."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from genai_iface import InvalidInputError
from genai_iface.folder._template import ChatTemplate

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


LOOP = "{% for i in range(60) %}"
END = "{% endfor %}"
HOSTILE = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attributes by name": "{{ (''|attr('__class__')).x }}",
    "attributes by index": "{{ messages['__class__'].x }}",
    "attributes by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "attributes by map": "{{ ['']|map(attribute='__class__')|map(attribute='__mro__')|list|string ~ 1 / 0 }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "macro internals": "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.getcwd() }}",
    "extends": "{% extends 'x' %}",
    "huge range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested literals": "{% for a in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] %}" * 9 + END * 9,
    "filtered loops": "{% for a in range(99999) if a < 0 %}{% endfor %}" * 100,
    "recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "recursive macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "two macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "product": "{{ 'a' * 10 ** 10 }}",
    "product of a list": "{{ ([1] * 10 ** 10)|length }}",
    "product from the left": "{{ 10 ** 10 * 'a' }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "big product": "{% set ns = namespace(x=9) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}" + END,
    "doubling by ~": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}" + END,
    "doubling by +": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = ns.x + ns.x %}" + END,
    "doubling by %": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}" + END,
    "doubling by format": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = '{0}{0}'.format(ns.x) %}" + END,
    "doubling by join": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = [ns.x, ns.x]|join %}" + END,
    "doubling by replace": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = ns.x|replace('a', 'aa') %}" + END,
    "doubling by a block": "{% set ns = namespace(x='a') %}"
    + LOOP
    + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    + END,
    "doubling lists": "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = ns.x + ns.x %}" + END,
    "nested lists": "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = [ns.x, ns.x] %}" + END + "{{ ns.x }}",
    "nested tuples": "{% set ns = namespace(x=1) %}" + LOOP + "{% set ns.x = (ns.x, ns.x) %}" + END + "{{ ns.x }}",
    "nested mappings": "{% set ns = namespace(x=1) %}" + LOOP + "{% set ns.x = {'a': ns.x, 'b': ns.x} %}" + END,
    "nested by dict": "{% set ns = namespace(x=1) %}" + LOOP + "{% set ns.x = dict(a=ns.x, b=ns.x) %}" + END,
    "literal text in loops": "{% set x %}" + "{% for i in range(9999) %}" * 2 + "a" * 99999 + END * 2 + "{% endset %}",
    "center": "{{ 'a'|center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "zfill by map": "{{ ['a']|map('center', 10000000000)|list }}",
    "expandtabs": "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "percent width": "{{ '%10000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10000000000, 1) }}",
    "format filter": "{{ '%10000000000d'|format(1) }}",
    "format width": "{{ '{:10000000000}'.format(1) }}",
    "format nested width": "{{ '{:{}}'.format(1, 10000000000) }}",
    "format_map": "{{ '{a:10000000000}'.format_map({'a': 1}) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace filter": "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}",
    "replace by name": "{{ ('a' * 99999)|replace(old='a', new='b' * 99999) }}",
    "join": "{{ ('a' * 99999).join([''] * 99999) }}",
    "join filter": "{{ ([1] * 99999)|join('a' * 99999) }}",
    "join characters": "{{ ('b' * 99999)|join('a' * 99999) }}",
    "indent": "{{ ('\\n' * 99999)|indent('a' * 9999) }}",
    "round": "{{ 5.5|round(1000000000, 'ceil') }}",
    "batch": "{{ [1]|batch(1000000000, 1)|list }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "tojson indent": "{{ [1]|tojson(indent=1000000000) }}",
    "tojson separators": "{{ range(9999)|list|tojson(separators=('a' * 99999, '')) }}",
    "wordwrap": "{{ ('a ' * 9999)|wordwrap(1, wrapstring='b' * 99999) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "lipsum": "{{ lipsum(1000000000) }}",
    "time format": "{{ strftime_now('%c' * 99999999) }}",
    "division by zero": "{{ 1 / 0 }}",
    "missing key": "{{ messages[99].role }}",
    "wrong type": "{{ 'a' + 1 }}",
    "deep expression": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "long number": "{{ " + "9" * 5000 + " }}",
    "broken syntax": "{% for %}",
    "unknown filter": "{{ 1|nothing }}",
    "too long": " " * (2**20 + 1),
}  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_end_quickly(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidInputError, match="chat template") as caught:
        render(source)
    assert time.monotonic() - start < 15, "the limit is 5 seconds of rendering"
    assert caught.value.remedy


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
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}ok", "chat_template.jinja")
    assert [template.render({}) for _ in range(5)] == ["ok"] * 5
