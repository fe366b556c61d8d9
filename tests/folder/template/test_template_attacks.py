# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Hostile chat templates: whatever one does, there is one typed error in time, in bounded memory, and nothing stays.

What works here is the process, not a list; the lists are what got through lists of dangerous operations before.
"""

from __future__ import annotations

import time

import pytest

from genai_iface import InvalidInputError
from genai_iface.folder.template.chat_template import ChatTemplate
from tests.marks import slow_but

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes."}]

FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}"
END = "{% endfor %}"
TWICE = END * 2
LONG = "{% set a = 'a' * 20000000 %}"
PAIR = LONG + "{% set l = [a ~ 'x', a ~ 'y'] %}"
# By way of a variable: constants are computed when it is compiled.
BIG = "{% set f = 'f' %}{% set n = (f * 200000)|int(base=16) %}"
GROW = "{% set ns = namespace(x='a', n=3, l=[1], d={}) %}{% for i in range(99) %}"


def loop(body: str) -> str:
    return FOREVER + body + TWICE


# Each would take minutes or gigabytes.
EXPENSIVE = {
    # loops
    "nested ranges": loop(""),
    "nested literals": "{% for a in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] %}" * 9 + END * 9,
    "filtered loops": "{% for a in range(99999) %}{% for a in range(99999) if a < 0 %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for a in range(60) recursive %}{{ loop(range(60)) if loop.depth < 60 }}{% endfor %}",
    "two macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "call blocks": "{% macro f(n) %}{% if n %}{% call f(n - 1) %}{% endcall %}{% call f(n - 1) %}{% endcall %}"
    "{% endif %}{{ caller() }}{% endmacro %}{% call f(60) %}{% endcall %}",
    "loop controls": loop("{% if j %}{% continue %}{% endif %}"),
    "cycler": "{% set c = cycler(1, 2) %}" + loop("{{ c.next() and '' }}"),
    "cross product by slices": loop("{% set x = messages[::-1][:1] * 99 %}"),
    # arithmetic
    "power": "{{ (10 ** 99999) ** 99999 }}",
    "power of two": "{{ 2 ** (2 ** 40) }}",
    "huge numbers from text": BIG + loop("{% set m = n * n // 7 %}"),
    "one huge number": "{% set f = 'f' %}{% set n = (f * 20000000)|int(base=16) %}" + loop("{% set m = n % 999983 %}"),
    "squaring": GROW + "{% set ns.n = ns.n * ns.n %}" + END,
    "shifts by formats": BIG + loop("{% set m = '%x' % n %}"),
    "remainders": BIG + loop("{% set m = (n * n) % (n - 1) %}"),
    "modulo power": "{{ 3 ** (3 ** 21) % 7 }}",
    "round": BIG + loop("{% set m = n|round(-5) %}"),
    # comparing
    "comparing long texts": PAIR + loop("{% if l[0] < l[1] %}{% endif %}"),
    "equality of long texts": PAIR + loop("{% if l[0] == l[1] %}{% endif %}"),
    "maximum of long texts": PAIR + loop("{% set m = l|max %}"),
    "sorting long texts": PAIR + loop("{% set m = (l * 99)|sort %}"),
    "unique long texts": PAIR + loop("{% set m = (l * 99)|unique|list %}"),
    "grouping long texts": PAIR + "{% set r = [{'k': l[0]}, {'k': l[1]}] %}" + loop("{% set m = r|groupby('k') %}"),
    "in a long text": LONG + loop("{% if 'aaab' in a %}{% endif %}"),
    "in a list of long texts": PAIR + loop("{% if (a ~ 'z') in l %}{% endif %}"),
    "quadratic search": "{% set a = 'a' * 3000000 %}{% set b = 'a' * 1500000 ~ 'b' %}" + loop("{{ a.count(b) }}"),
    "index of a long text": LONG + loop("{% set m = a.rfind('b') %}"),
    "selecting long texts": PAIR + loop("{% set m = (l * 99)|select('lt', l[1])|list %}"),
    "comparing long lists": "{% set l = [[0] * 999999 + [1], [0] * 999999 + [2]] %}" + loop("{{ l[0] < l[1] and '' }}"),
    "comparing shared lists": GROW + "{% set ns.l = [ns.l, ns.l] %}" + END + "{% set a = ns.l %}{% set ns.l = [1] %}"
    "{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}" + END + "{{ a == ns.l }}",
    # texts
    "product": "{{ 'a' * 10 ** 10 }}",
    "product from the left": "{{ 10 ** 10 * 'a' }}",
    "products": "{% set a = 'abc' * 1000000 %}" + loop("{% set b = a * 30 %}"),
    "doubling by ~": GROW + "{% set ns.x = ns.x ~ ns.x %}" + END,
    "doubling by +": GROW + "{% set ns.x = ns.x + ns.x %}" + END,
    "doubling by %": GROW + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}" + END,
    "doubling by format": GROW + "{% set ns.x = '{0}{0}'.format(ns.x) %}" + END,
    "doubling by join": GROW + "{% set ns.x = [ns.x, ns.x]|join %}" + END,
    "doubling by replace": GROW + "{% set ns.x = ns.x|replace('a', 'aa') %}" + END,
    "doubling by a block": GROW + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}" + END,
    "doubling by a filter block": GROW + "{% set y %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}"
    "{% set ns.x = y %}" + END,
    "doubling by pprint": GROW + "{% set ns.x = [ns.x, ns.x]|pprint %}" + END,
    "doubling by escape": GROW + "{% set ns.x = ('<' ~ ns.x)|forceescape|replace('&', '&&') %}" + END,
    "one text many times by %": LONG + "{{ ('%s' * 300) % ((a,) * 300) }}",
    "one text many times by join": LONG + "{{ ([a] * 300)|join }}",
    "one text many times by tojson": LONG + "{{ ([a] * 300)|tojson }}",
    "one text many times as text": LONG + "{{ ([a] * 300)|string }}",
    "one text many times in the output": LONG + loop("{{ a }}"),
    "short texts in the output": loop("{{ 'abc' * 999 }}"),
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace by name": "{{ ('a' * 99999)|replace(old='a', new='b' * 99999) }}",
    "join": "{{ ('a' * 99999).join([''] * 99999) }}",
    "join filter": "{{ ([1] * 99999)|join('a' * 99999) }}",
    "indent": "{{ ('\\n' * 99999)|indent('a' * 99999, blank=true) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "upper case": "{% set a = 'ß' * 9000000 %}" + loop("{% set b = a.upper() %}"),
    "wide characters": "{{ ('a' * 90000000 ~ '\U0001f642')|length }}" * 9,
    "title": LONG + loop("{% set b = a|title %}"),
    "word wrap": "{{ ('a ' * 9999)|wordwrap(1, wrapstring='b' * 99999) }}",
    "word wrap of one word": "{{ ('a' * 9000000)|wordwrap(1) }}" * 9,
    "word count": LONG + loop("{{ a|wordcount and '' }}"),
    "strip tags": "{% set a = '<' * 300000 %}" + loop("{% set b = a|striptags %}"),
    "urlize": "{% set a = 'http://a.b/(' * 300000 %}" + loop("{% set b = a|urlize %}"),
    "urlencode": "{% set a = '\u00e9' * 3000000 %}" + loop("{% set b = a|urlencode %}"),
    "xml attributes": "{% set d = {'a': '<' * 9000000} %}" + loop("{% set b = d|xmlattr %}"),
    "truncate": LONG + loop("{% set b = a|truncate(19999999, true, 'b' * 999) %}"),
    "splitting": "{% set a = 'a ' * 9000000 %}" + loop("{% set b = a.split(' ') %}"),
    "lines": "{% set a = 'a\\n' * 9000000 %}" + loop("{% set b = a.splitlines() %}"),
    "reversing": LONG + loop("{% set b = a[::-1] %}"),
    "slices": LONG + loop("{% set b = a[1:] %}"),
    "encoding": LONG + loop("{% set b = a.encode('utf-32') %}"),
    "lipsum": "{{ lipsum(1000000) }}",
    "a time format": "{{ strftime_now('%c' * 9999999) }}" * 9,
    "literal text in loops": "{% set x %}" + FOREVER + "a" * 99999 + TWICE + "{% endset %}",
    "a number of many digits": "{% set n = '9' * 4300 %}" + loop("{% set m = n|int * n|int %}"),
    "floats": loop("{% set m = '%.5000f' % 1e300 %}"),
    # widths
    "center": "{{ 'a'|center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "zfill": "{{ 'a'.zfill(10000000000) }}",
    "center by map": "{{ ['a']|map('center', 10000000000)|list }}",
    "expandtabs": "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "percent precision": "{{ '%.1000000000d' % 1 }}",
    "many widths": loop("{% set x = ('%9999d' * 999) % ((1,) * 999) %}"),
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "format nested width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "tojson indent": "{{ [1]|tojson(indent=1000000000) }}",
    "tojson indented deeply": GROW + "{% set ns.l = [ns.l] %}" + END + "{{ ns.l|tojson(indent=99999999) }}",
    "tojson separators": "{{ range(9999)|list|tojson(separators=('a' * 99999, '')) }}",
    # containers
    "product of a list": "{{ ([1] * 10 ** 10)|length }}",
    "product of a tuple": "{{ ((1,) * 10 ** 10)|length }}",
    "doubling lists": GROW + "{% set ns.l = ns.l + ns.l %}" + END,
    "nested lists": GROW + "{% set ns.l = [ns.l, ns.l] %}" + END + "{{ ns.l }}",
    "nested tuples": GROW + "{% set ns.l = (ns.l, ns.l) %}" + END + "{{ ns.l }}",
    "nested mappings": GROW + "{% set ns.d = {'a': ns.d, 'b': ns.d} %}" + END + "{{ ns.d|tojson }}",
    "nested by dict": GROW + "{% set ns.d = dict(a=ns.d, b=ns.d) %}" + END + "{{ ns.d|pprint }}",
    "batch": "{{ [1]|batch(1000000000, 1)|list }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "lists of ranges": "{{ ([range(99999)] * 9999)|map('list')|list|length }}",
    "sum of lists": "{{ ([[1] * 9999] * 9999)|sum(start=[])|length }}",
    "map of maps": GROW + "{% set ns.l = ns.l|map('string')|map('list')|sum(start=[]) * 9 %}" + END,
    "sorting mappings": "{% set d = dict.fromkeys(range(99999), 1) %}" + loop("{% set m = d|dictsort %}"),
    "json of mappings": "{% set d = dict.fromkeys(range(99999), 1) %}" + loop("{% set m = d|tojson(sort_keys=true) %}"),
    "equal hashes": "{% set p = 2 ** 61 - 1 %}{% set l = range(99999)|list %}"
    + loop("{% set m = dict.fromkeys([i * p, j * p] + l) %}"),
    "random": loop("{% set m = range(99999)|list|random %}"),
}  # fmt: skip

# No result, and quickly: at once refused, or stopped.
UNCOMPILABLE = {
    "many macros": "{% macro a() %}{% endmacro %}" * 28_000,
    "a chain of comparisons": "{{ 1" + "<1" * 300_000 + " }}",
    "a chain of additions": "{{ 1" + "+1" * 300_000 + " }}",
    "a chain of filters": "{{ 1" + "|string" * 99_999 + " }}",
    "a chain of joins": "{{ 1" + "~1" * 300_000 + " }}",
    "a chain of attributes": "{{ a" + ".a" * 300_000 + " }}",
    "a chain of calls": "{{ a" + "()" * 300_000 + " }}",
    "a chain of conditions": "{{ 1" + " if 1 else 1" * 80_000 + " }}",
    "a chain of negations": "{{ " + "not " * 99_999 + "1 }}",
    "a chain of signs": "{{ " + "-" * 500_000 + "1 }}",
    "many branches": "{% if 1 %}" + "{% elif 1 %}" * 80_000 + "{% endif %}",
    "many texts": "{{ '" + "a' '" * 200_000 + "' }}",
    "many names": "".join(f"{{% set a{n} = 1 %}}" for n in range(50_000)),
    "constants to fold": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "a constant power": "{{ 9999999 ** 9999999 ** 1 }}",
    "a constant product": "{{ 'a' * 999999999999 }}",
    "a constant filter": "{{ 'a'|center(999999999999) }}",
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "many parentheses": "{{ " + "(" * 500_000 + " }}",
    "lists in lists": "{{ " + "[" * 99_999 + "]" * 99_999 + " }}",
    "blocks in blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "loops in loops": "{% for a in b %}" * 3000 + END * 3000,
    "a long number": "{{ " + "9" * 5000 + " }}",
    "a very long number": "{{ " + "9" * 900_000 + " }}",
    "an open comment": "{#" * 500_000,
    "an open text": "{{ '" + "\\" * 900_000,
    "many opening braces": "{{" * 500_000,
    "broken syntax": "{% for %}",
    "unknown filter": "{{ 1|nothing }}",
    "unknown test": "{{ 1 is nothing }}",
    "do": "{% do messages.append(1) %}",
    "translations": "{% trans %}a{% endtrans %}",
    "debug": "{% debug %}",
    "too long": " " * (2**20 + 1),
}  # fmt: skip

# No way out of the sandbox; what is refused without an error gives nothing.
ESCAPES = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attributes by name": "{{ (''|attr('__class__')).x }}",
    "attributes by index": "{{ messages['__class__'].x }}",
    "attributes by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "attributes by format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "attributes by map": "{{ ['']|map(attribute='__class__')|map(attribute='__mro__')|list|string ~ 1 / 0 }}",
    "attributes by a late format": "{{ (['{0.__class__.x}']|map('string')|first).format(1) }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "globals of a function of ours": "{{ raise_exception.__globals__.x }}",
    "globals of joiner": "{{ joiner.__init__.__globals__.os }}",
    "globals of lipsum": "{{ lipsum.__globals__.x }}",
    "globals of strftime_now": "{{ strftime_now.__globals__.x }}",
    "the template itself": "{{ self.__init__.__globals__ }}",
    "the context": "{{ self._TemplateReference__context.environment }}",
    "frames": "{{ (messages|map('string')).gi_frame.f_globals }}",
    "code": "{{ raise_exception.__code__.co_consts }}",
    "types": "{{ dict.mro() }}",
    "macro internals": "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "loop internals": "{% for m in messages %}{{ loop._iterator.x }}{% endfor %}",
    "hidden names": "{% set ns = namespace(_a=1) %}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.getcwd() }}",
    "from import": "{% from 'os' import getcwd %}{{ getcwd() }}",
    "extends": "{% extends 'x' %}",
    "appending": "{{ messages.append(1) }}",
    "updating": "{{ messages[0].update(role='x') }}",
    "clearing": "{{ messages.clear() }}",
    "sorting in place": "{{ messages.sort() }}",
    "builtins": "{{ open('/etc/passwd') }}",
    "import by name": "{{ __import__('os') }}",
    "division by zero": "{{ 1 / 0 }}",
    "missing key": "{{ messages[99].role }}",
    "wrong type": "{{ 'a' + 1 }}",
    "recursive macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive call block": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
    "json of a cycle": "{% set ns = namespace(l=[]) %}{% set ns.l = [ns] %}{{ ns.l|tojson }}",
    "json of a function": "{{ range|tojson }}",
    "json too deep": "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}"
    "{{ ns.l|tojson }}",
    "huge range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "a codec that is a file": "{{ 'a'.encode('rot13') }}",
    "a codec of that name": "{{ 'a'.encode('../../x') }}",
    "a text that is not a number": "{{ ('9' * 999999)|int + '' }}",
}  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len(EXPENSIVE) + len(UNCOMPILABLE) + len(ESCAPES) >= 150


def outcome(source: str, seconds: float) -> str:
    start = time.monotonic()
    with pytest.raises(InvalidInputError, match="chat template") as caught:
        ChatTemplate(source, "chat_template.jinja", seconds=seconds).render({"messages": MESSAGES})
    # The process itself has to start, on a machine that may be busy.
    assert time.monotonic() - start < seconds + 10
    assert caught.value.remedy
    assert len(str(caught.value)) < 2000
    return str(caught.value)


# Each is stopped by a clock, so each takes its time: every third runs with the quick suite, all in .ci/run.
@pytest.mark.parametrize("name", slow_but(list(EXPENSIVE)[::3], EXPENSIVE))
def test_what_would_take_long_or_fill_the_memory_is_stopped(name: str) -> None:
    assert "was stopped" in outcome(EXPENSIVE[name], seconds=0.25)


@pytest.mark.parametrize("name", slow_but(list(UNCOMPILABLE)[::3], UNCOMPILABLE))
def test_compiling_has_an_end(name: str) -> None:
    outcome(UNCOMPILABLE[name], seconds=0.5)


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    assert "was stopped" not in outcome(source, seconds=5)
