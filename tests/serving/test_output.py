# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Calls and reasoning in the text of a model, however it is cut into pieces."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai_iface import InvalidInputError
from genai_iface.serving.output.events import Call, Content, Found, Reasoning
from genai_iface.serving.output.formats import FORMATS, choose_format

THINKING = "{{ '<think>' }}"
CALL = Call("get_weather", '{"city": "Bern", "days": 2}')
ARGUMENTS = '{"city": "Bern", "days": 2}'
OTHER = Call("now", "{}")

# What models of each family say, with what it means.
WRITTEN: list[tuple[str, str, list[Found]]] = [
    ("hermes", "Hello < there", [Content("Hello < there")]),
    (
        "hermes",
        f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        [Content("Let me see.\n"), CALL, OTHER],
    ),
    (
        "hermes",
        '<think>\nWhich city?\n</think>\n\n<tool_call>{"name": "now"}</tool_call>',
        [Reasoning("\nWhich city?\n"), OTHER],
    ),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}', [OTHER]),
    (
        "qwen_xml",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        [CALL],
    ),
    ("llama_json", '{"name": "get_weather", "parameters": ' + ARGUMENTS + "}", [CALL]),
    (
        "llama_json",
        f'<|python_tag|>{{"name": "now", "parameters": {{}}}}; {{"name": "get_weather", "parameters": {ARGUMENTS}}}',
        [OTHER, CALL],
    ),
    ("llama_json", "It is {warm}", [Content("It is {warm}")]),
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}}}, {{"name": "now", "arguments": {{}}}}]',
        [CALL, OTHER],
    ),
    (
        "mistral",
        f"Well. [TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]now[ARGS]{{}}",
        [Content("Well. "), CALL, OTHER],
    ),
    (
        "deepseek",
        f"Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{ARGUMENTS}\n```"
        "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [Content("Sure."), CALL, OTHER],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{ARGUMENTS}<|call|>",
        [Reasoning("Weather."), CALL],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!",
        [Reasoning("Easy."), Content("Hello!")],
    ),
    ("harmony", f" to=functions.get_weather<|channel|>commentary json<|message|>{ARGUMENTS}", [CALL]),
]

# Calls that are none. All of the text is still there.
BROKEN = [
    ("hermes", '<tool_call>{"name": "now", "arguments": {}</tool_call> done'),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arg'),
    ("hermes", "<tool_call>" + "[" * 5000 + "</tool_call>"),
    ("qwen_xml", "<tool_call><function=f><parameter=a>1</function></tool_call>"),
    ("llama_json", '{"answer": 42}'),
    ("llama_json", '{"name": "now", "parameters": {}} and more'),
    ("mistral", '[TOOL_CALLS][{"name": "now"'),
    ("mistral", "[TOOL_CALLS]now[ARGS]{"),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ("harmony", "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{oops<|call|>"),
]


def found_in(name: str, pieces: list[str], *, prompt: str = "") -> list[Found]:
    parser = choose_format(name, THINKING).parser(with_calls=True, prompt=prompt)
    assert parser is not None
    found = [one for piece in pieces for one in parser.push(piece)] + parser.finish()
    return merged(found)


def merged(found: list[Found]) -> list[Found]:
    """Pieces of one kind that follow each other as one."""
    whole: list[Any] = []
    for one in found:
        if whole and type(whole[-1]) is type(one) and not isinstance(one, Call):
            whole[-1] = type(one)(whole[-1].text + one.text)
        else:
            whole.append(one)
    return whole


@pytest.mark.parametrize(("name", "text", "expected"), WRITTEN)
def test_what_models_write_is_understood(name: str, text: str, expected: list[Found]) -> None:
    assert found_in(name, [text]) == expected
    assert found_in(name, list(text)) == expected


@given(st.sampled_from(WRITTEN), st.lists(st.integers(1, 300), max_size=6))
def test_pieces_may_be_cut_anywhere(written: tuple[str, str, list[Found]], cuts: list[int]) -> None:
    name, text, expected = written
    places = [0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert found_in(name, pieces) == expected


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_a_broken_call_is_text(name: str, text: str) -> None:
    for pieces in ([text], [text[at : at + 7] for at in range(0, len(text), 7)]):
        found = found_in(name, pieces)
        assert not [one for one in found if isinstance(one, Call)]
        assert "".join(one.text for one in found if isinstance(one, Content)) == text


@given(st.sampled_from(sorted(FORMATS)), st.text(st.sampled_from('ab {}[]"<>|:,=/\n'), max_size=60))
def test_any_text_is_kept(name: str, text: str) -> None:
    """Whatever a model says without marks of its form comes through."""
    found = found_in(name, list(text))
    assert "".join(one.text for one in found if isinstance(one, Content)) == text


def test_text_comes_as_soon_as_it_is_certain() -> None:
    parser = choose_format("hermes", "").parser(with_calls=True, prompt="")
    assert parser is not None
    assert parser.push("Hello ") == [Content("Hello ")]
    assert parser.push("you <tool_") == [Content("you ")]
    assert parser.push("box") == [Content("<tool_box")]
    assert parser.push('<tool_call>{"name": "now"}</tool_call') == []
    assert parser.push(">") == [OTHER]


def test_the_prompt_may_have_opened_the_reasoning() -> None:
    expected = [Reasoning("Hm."), Content("Yes.")]
    assert found_in("hermes", ["Hm.</th", "ink>\nYes."], prompt="<|assistant|><think>\n") == expected


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("<tool_call> {{ tool_calls }}", WRITTEN[1][1], 2),
        ("<tool_call><function=", WRITTEN[4][1], 1),
        ('Environment: ipython "parameters"', WRITTEN[5][1], 1),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", WRITTEN[8][1], 2),
        ("<｜tool▁calls▁begin｜>", WRITTEN[10][1], 2),
        ("<|channel|> <|message|>", WRITTEN[11][1], 1),
    ],
)
def test_the_template_says_which_form_it_is(template: str, text: str, expected: int) -> None:
    parser = choose_format("auto", template).parser(with_calls=True, prompt="")
    assert parser is not None
    found = parser.push(text) + parser.finish()
    calls = [one for one in found if isinstance(one, Call)]
    assert len(calls) == expected
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)


def test_no_form_leaves_the_text_alone() -> None:
    assert choose_format("auto", "{{ messages }}").parser(with_calls=True, prompt="") is None
    assert choose_format("none", "<tool_call><think>").parser(with_calls=True, prompt="") is None
    with pytest.raises(InvalidInputError, match="There is no tool parser 'nothing'"):
        choose_format("nothing", "")
