# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Constrained output: whatever the model says, the text is what the schema, expression or grammar allows."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import jsonschema
import llguidance
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import (
    BackendError,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
)
from genai_iface.generation import ModelGenerator, PromptLookup
from genai_iface.generation.constraints.guidance import Guidance
from tests.fakes import ByteTokenizer, FakeModel
from tests.generation.constraints.constrained import KINDS, NESTED, PERSON, TIGHT, kinds, pipeline, pipeline_of
from tests.generation.text.tokenizers_for_tests import Wrapped, byte_level

# A busy machine is slow; that is not a finding.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The text


def scalars() -> st.SearchStrategy[dict[str, Any]]:
    low = st.integers(-50, 50)
    return st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "pattern": "^[a-c]{1,3}$"}]),
        st.builds(lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b}, low, st.integers(0, 1000)),
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 8)),
        st.lists(st.one_of(st.text(max_size=4), st.integers(-9, 9)), min_size=1, max_size=3).map(lambda e: {"enum": e}),
        st.text(max_size=5).map(lambda value: {"const": value}),
    )


def containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["a", "b c", "é", "d"])

    def an_object(properties: dict[str, Any], required: bool) -> dict[str, Any]:
        needed = {"required": sorted(properties)} if required else {}
        return {"type": "object", "properties": properties, "additionalProperties": False, **needed}

    return st.one_of(
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)),
        st.builds(an_object, st.dictionaries(names, inner, max_size=3), st.booleans()),
        st.lists(inner, min_size=1, max_size=2).map(lambda choices: {"anyOf": choices}),
    )


SCHEMAS = st.recursive(scalars(), containers, max_leaves=6)


@kinds
@settings(RELAXED, max_examples=60)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32), temperature=st.sampled_from([0, 0.7, 5.0]))
def test_json_parses_and_is_what_the_schema_says(kind: str, schema: Any, seed: int, temperature: float) -> None:
    result = pipeline(kind).generate(
        [1, 2, 3], json_schema={**schema, **TIGHT}, temperature=temperature, seed=seed, max_new_tokens=900
    )
    assert result.finish_reasons == ["stop"]
    jsonschema.validate(json.loads(result.text), schema)


EXPRESSIONS = [
    r"[0-9]{3}-[a-z]{2,4}",
    r"yes|no|maybe",
    r"(é{2}|🙂|你好)[ab]?",
    r"-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,2})?",
    r"[^a]{1,3}a",
    r"[А-Я][а-я]{1,8}( [А-Я]\.){0,2}",
    r"(?s).{5}\nend",
]


@kinds
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_whole_output_matches_a_regular_expression(kind: str, expression: str) -> None:
    for seed in range(8):
        result = pipeline(kind).generate([1, 2], regex=expression, temperature=2.0, seed=seed, max_new_tokens=60)
        assert result.finish_reasons == ["stop"]
        assert re.fullmatch(expression, result.text), result.text


@kinds
def test_the_output_follows_a_lark_grammar(kind: str) -> None:
    depths = set()
    for seed in range(12):
        result = pipeline(kind).generate([1], lark_grammar=NESTED, temperature=30.0, seed=seed, max_new_tokens=200)
        depth = result.text.count("(")
        assert result.text == "(" * depth + "x" + ")" * depth
        assert result.finish_reasons == ["stop"]
        depths.add(depth)
    assert len(depths) > 1


# The masks


@kinds
@pytest.mark.parametrize(
    "field",
    [{"json_schema": PERSON}, {"regex": "[ab]{2,5}"}, {"lark_grammar": NESTED}],
    ids=lambda field: next(iter(field)),
)
def test_every_step_leaves_the_tokens_that_llguidance_allows(kind: str, field: dict[str, Any]) -> None:
    tokenizer = KINDS[kind]
    ((name, source),) = field.items()
    seen: list[tuple[list[int], set[int]]] = []

    def watch(tokens: Any, scores: Any) -> None:
        seen.append((tokens[2:].tolist(), set(np.flatnonzero(np.isfinite(scores)).tolist())))

    for seed in range(5):
        call = {"logits_processors": [watch], "temperature": 30.0, "seed": seed, "max_new_tokens": 80}
        pipeline(kind).generate([1, 2], **field, **call)
    make = {
        "json_schema": lambda: llguidance.LLMatcher.grammar_from_json_schema(source),
        "regex": lambda: llguidance.LLMatcher.grammar_from_regex(source),
        "lark_grammar": lambda: llguidance.LLMatcher.grammar_from_lark(source),
    }[name]
    table = llguidance.LLTokenizer(tokenizer.inner.to_str(), eos_token=tokenizer.eos_token_id)
    assert len(seen) > 6
    for new, left in seen:
        matcher = llguidance.LLMatcher(table, make())
        assert matcher.consume_tokens(new)
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        # Their mask has the stop token where the output may end, and nothing beyond the tokenizer's ids.
        assert left == set(np.flatnonzero(bits).tolist())
        assert (tokenizer.eos_token_id in left) == matcher.is_accepting()
        assert max(left) < tokenizer.vocab_size


# The end


def test_it_ends_as_soon_as_nothing_may_follow_also_without_a_stop_token() -> None:
    for options in ({}, {"ignore_eos": True}, {"min_new_tokens": 30}):
        result = pipeline("byte_level").generate([1], regex="ab", max_new_tokens=40, **options)
        assert (result.text, result.finish_reasons, len(result.token_ids[0])) == ("ab", ["stop"], 2)


def test_a_rule_that_allows_nothing_but_the_empty_text_ends_before_the_first_step() -> None:
    for options in ({}, {"ignore_eos": True}):
        pipe = pipeline("byte_level")
        result = pipe.generate([1], regex="()", max_new_tokens=40, **options)
        assert (result.text, result.token_ids, result.finish_reasons) == ("", [[]], ["stop"])


def test_a_stop_token_waits_until_the_output_may_end() -> None:
    tokenizer = ByteLevelScript()
    model = FakeModel(tokenizer.vocab_size, script=lambda tokens: tokenizer.eos_token_id)
    result = TextGenerationPipeline.from_parts(model, tokenizer).generate("p", regex="[ab]{3,9}", max_new_tokens=40)
    assert re.fullmatch("[ab]{3}", result.text)
    assert result.token_ids[0][3:] == [tokenizer.eos_token_id]


def test_min_new_tokens_makes_what_may_go_on_go_on() -> None:
    config = {"regex": "a*", "max_new_tokens": 20, "logit_bias": {1: 100.0}}
    assert pipeline("byte_level").generate([5], **config).text == ""
    assert pipeline("byte_level").generate([5], **config, min_new_tokens=7).text == "a" * 7


def test_ignore_eos_goes_on_while_the_grammar_does() -> None:
    result = pipeline("byte_level").generate([5], regex="a{2,6}", ignore_eos=True, logit_bias={1: 100.0})
    assert (result.text, result.finish_reasons) == ("aaaaaa", ["stop"])


def test_running_out_of_tokens_is_said_and_what_is_there_is_a_beginning() -> None:
    result = pipeline("byte_level").generate([1], regex="a{10}", max_new_tokens=4)
    assert (result.text, result.finish_reasons) == ("aaaa", ["length"])
    result = pipeline("byte_level").generate([1], regex="a{4}", max_new_tokens=4)
    assert (result.text, result.finish_reasons) == ("aaaa", ["stop"])


def test_a_stop_string_ends_it_earlier() -> None:
    result = pipeline("byte_level").generate([1], regex="a{3}b{30}", stop_strings="bb", max_new_tokens=40)
    assert (result.text, result.finish_reasons) == ("aaa", ["stop"])


def test_an_ordinary_token_that_ends_a_sequence_is_allowed_where_the_grammar_has_it() -> None:
    tokenizer = KINDS["byte_level"]
    (brace,) = tokenizer.encode("}")
    result = pipeline("byte_level").generate(
        [1], regex="a{2}\\}b", stop_token_ids=[brace], include_stop_str_in_output=True, max_new_tokens=20
    )
    assert (result.text, result.token_ids[0][-1]) == ("aa}", brace)


def test_a_special_token_that_the_grammar_names_is_allowed() -> None:
    result = pipeline("byte_level").generate([5], lark_grammar='start: "a" <s> "b"', max_new_tokens=9)
    assert result.token_ids[0] == [*KINDS["byte_level"].encode("a"), 0, *KINDS["byte_level"].encode("b")]


# A constraint of one's own


class Countdown:
    """Any tokens, each smaller than the one before; the output may end after two of them."""

    def __init__(self) -> None:
        self.vocab_size = 0

    def start(self, tokenizer: Any, vocab_size: int, /) -> Falling:
        return Falling(vocab_size)


class Falling:
    def __init__(self, vocab_size: int) -> None:
        self.said: list[int] = []
        self.vocab_size = vocab_size

    def allowed(self) -> Any:
        return np.arange(self.vocab_size) < (self.said[-1] if self.said else 200)

    def commit(self, token: int, /) -> None:
        self.said.append(token)

    def rollback(self, count: int, /) -> None:
        del self.said[len(self.said) - count :]

    def is_accepting(self) -> bool:
        return len(self.said) >= 2


@pytest.mark.parametrize("speculation", [None, PromptLookup(4)], ids=["plain", "speculative"])
def test_a_constraint_of_a_third_party(speculation: Any) -> None:
    pipe = TextGenerationPipeline.from_parts(FakeModel(300), ByteTokenizer())
    result = pipe.generate("abc", constraint=Countdown(), max_new_tokens=50, speculation=speculation)
    ids = [token for token in result.token_ids[0] if token != 257]
    assert len(ids) >= 2
    assert ids == sorted(set(ids), reverse=True)
    assert ids[0] < 200
    assert result.finish_reasons == ["stop"]


def test_it_cannot_be_given_twice_or_in_the_wrong_shape() -> None:
    with pytest.raises(InvalidInputError, match="regex and constraint are both given"):
        pipeline("byte_level").generate([1], regex="a", constraint=Countdown())

    class Narrow(Falling):
        def allowed(self) -> Any:
            return super().allowed()[:-1]

    class Wrong:
        def start(self, tokenizer: Any, vocab_size: int, /) -> Falling:
            return Narrow(vocab_size)

    with pytest.raises(InvalidInputError, match=r"gave the shape \(299,\)"):
        TextGenerationPipeline.from_parts(FakeModel(300), ByteTokenizer()).generate("a", constraint=Wrong())


def test_a_function_of_the_caller_cannot_smuggle_a_token_in() -> None:
    with pytest.raises(InvalidInputError, match="not allowed by the constraint"):
        pipeline("byte_level").generate(
            [1], regex="a{5}", logits_processors=[lambda tokens, scores: np.zeros(len(scores))], max_new_tokens=9
        )


# What is refused


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"regex": "a("}, "regex is not legal: .*unclosed group"),
        ({"regex": "(?=a)a"}, "regex is not legal: .*look-around"),
        ({"lark_grammar": "start: nothing"}, 'lark_grammar is not legal: .*unknown name: "nothing"'),
        ({"json_schema": {"type": "nope"}}, "json_schema is not legal: Invalid type: nope"),
        ({"json_schema": {"not": {}}}, 'json_schema is not legal: Unimplemented keys: \\["not"\\]'),
        ({"json_schema": "{"}, "json_schema='{' is not legal"),
        ({"json_schema": {}, "regex": "a"}, "json_schema and regex are both given"),
    ],
)
def test_what_is_not_legal_is_refused_at_the_call_with_the_reason(field: dict[str, Any], message: str) -> None:
    pipe = pipeline("byte_level")
    with pytest.raises(InvalidInputError, match=message) as raised:
        pipe.stream([1], **field)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_that_hides_its_tokens_is_refused() -> None:
    pipe = TextGenerationPipeline.from_parts(FakeModel(300), ByteTokenizer())
    with pytest.raises(UnsupportedCapabilityError, match="ByteTokenizer does not say what bytes"):
        pipe.generate("a", regex="a")
    with pytest.raises(InvalidInputError, match="there is no tokenizer"):
        ModelGenerator(FakeModel(300), GenerationConfig(regex="a"))


def test_without_llguidance_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedCapabilityError, match=r"pip install 'genai-iface\[grammar\]'"):
        pipeline_of(byte_level()).generate([1], regex="a")


def test_the_token_table_and_a_grammar_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    table, matcher = llguidance.LLTokenizer, llguidance.LLMatcher

    class Counting:
        grammar_from_regex = staticmethod(matcher.grammar_from_regex)
        grammar_from_json_schema = staticmethod(matcher.grammar_from_json_schema)
        grammar_from_lark = staticmethod(matcher.grammar_from_lark)

        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            made.append("grammar")
            return matcher(*arguments, **options)

    def count_table(*arguments: Any, **options: Any) -> Any:
        made.append("table")
        return table(*arguments, **options)

    monkeypatch.setattr(llguidance, "LLTokenizer", count_table)
    monkeypatch.setattr(llguidance, "LLMatcher", Counting)
    tokenizer = byte_level()
    for _ in range(3):
        pipeline_of(tokenizer).generate([[1], [2]], regex="a{3}")
    assert made == ["table", "grammar"]
    pipeline_of(tokenizer).generate([1], regex="b{3}")
    assert made == ["table", "grammar", "grammar"]


def test_a_grammar_that_is_too_ambiguous_ends_its_own_request() -> None:
    """Long before llguidance's own limit, which a step reaches after most of a second, while all others wait."""
    grammar = Guidance("lark_grammar", 'start: s\ns: s s | s s s | /[a-z ]/ | ""\n')
    random = np.random.default_rng(0)
    with TextGenerationPipeline(backend="numpy") as pipe:
        tokens = grammar.start(pipe.tokenizer, pipe.model.spec.vocab_size)
    with pytest.raises(BackendError, match=r"llguidance cannot go on: .*Too many items"):
        for _ in range(40):
            tokens.commit(int(random.choice(np.flatnonzero(tokens.allowed()))))


def test_a_tokenizer_that_cannot_be_remembered_works_too() -> None:
    class Nameless(Wrapped):
        __hash__ = None  # type: ignore[assignment]

    result = pipeline_of(Nameless(byte_level().inner)).generate([1], regex="a{3}")
    assert result.text == "aaa"


class ByteLevelScript(Wrapped):
    """The byte-level tokenizer for a model that says one thing only."""

    def __init__(self) -> None:
        super().__init__(byte_level().inner)


def test_the_embedded_model_answers_in_json() -> None:
    with TextGenerationPipeline() as pipe:
        result = pipe.generate("The operator is ", json_schema=PERSON, max_new_tokens=80)
    jsonschema.validate(json.loads(result.text), PERSON)
