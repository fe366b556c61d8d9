# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: why a sequence ends, and what is left of what ended it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import equal, expect
from genai_iface.conformance.checks.l4._text import changed_folder
from genai_iface.conformance.registry import PROFILES, check
from genai_iface.conformance.text import TextResult
from genai_iface.protocols import Pipeline
from genai_iface.results import GenerationResult

__all__ = ["EOS", "PROMPT", "TEXT", "TEXT_TOKENS", "said", "same_tokens"]

PROMPT = "H"
"""What makes the text model say TEXT."""

TEXT = "i \U0001f642!é."
"""No byte of it occurs twice, so each byte names the next; then the model ends."""

TEXT_TOKENS = list(TEXT.encode())
"""The tokenizer's ids are the bytes."""

EOS = 257
_LONG = 260


@contextmanager
def _long_token(context: Context, text: str) -> Iterator[Pipeline]:
    """A pipeline over the text model, one of whose tokens has several characters."""
    with changed_folder(context) as folder:
        path = folder / "tokenizer.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        token = next(item for item in data["added_tokens"] if item["id"] == _LONG)
        token.update(content=text, special=False)
        path.write_text(json.dumps(data), encoding="utf-8")
        yield context.pipeline(folder)


def said(result: GenerationResult | TextResult) -> list[Any]:
    """The tokens of each sequence, or what a target that shows none wrote."""
    is_text = isinstance(result, TextResult) and not result.has_token_ids
    return list(result.texts if is_text else result.token_ids)


def same_tokens(result: GenerationResult | TextResult, expected: list[list[int]], what: str) -> None:
    """Fails unless these tokens came; from a target that shows none, unless their text did."""
    if isinstance(result, TextResult) and not result.has_token_ids:
        # Ids below 256 are bytes, the others have no text.
        texts = [bytes(token for token in row if token < 256).decode(errors="replace") for row in expected]
        equal(result.texts, texts, f"{what}, as text")
    else:
        equal(result.token_ids, expected, what)


@check(
    "L4.stop.eos", profiles=PROFILES, core="A model that ended must not be made to go on.", spec=["Stop.1", "Stop.2"]
)
def eos(context: Context) -> None:
    """The end-of-sequence token ends a sequence with "stop"."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30)
    equal(result.finish_reasons, ["stop"], "finish_reasons")
    equal(result.texts, [TEXT], "the text, without the end-of-sequence token")


@check("L4.stop.eos_once", profiles=PROFILES, spec=["Stop.1", "Stop.2"])
def eos_once(context: Context) -> None:
    """The end-of-sequence token is reported once, and nothing after it."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30)
    same_tokens(result, [[*TEXT_TOKENS, EOS]], "token_ids of a sequence that ends itself")


@check("L4.stop.batch", profiles=PROFILES, spec=["Stop.1", "Stop.8"])
def batch(context: Context) -> None:
    """A sequence that has ended stays as it is while others go on."""
    result = context.pipeline().generate(["Hi \U0001f642!é", PROMPT, "!"], max_new_tokens=30)
    equal(result.finish_reasons, ["stop"] * 3, "finish_reasons")
    expected = [list(b"."), TEXT_TOKENS, list("é.".encode())]
    same_tokens(result, [[*tokens, EOS] for tokens in expected], "token_ids of sequences of different lengths")
    equal(result.texts, [".", TEXT, "é."], "texts of sequences of different lengths")


@check("L4.stop.ignore_eos", profiles=PROFILES, spec=["Stop.1"])
def ignore_eos(context: Context) -> None:
    """With ignore_eos generation goes on to its limit."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=15, ignore_eos=True)
    equal(result.finish_reasons, ["length"], "finish_reasons")
    equal(len(result.token_ids[0]), 15, "the number of tokens")
    equal(result.token_ids[0][: len(TEXT_TOKENS) + 1], [*TEXT_TOKENS, EOS], "the tokens up to the one ignored")


@check(
    "L4.stop.max_new_tokens", profiles=PROFILES, core="A limit that does not hold is somebody's bill.", spec=["Stop.5"]
)
def max_new_tokens(context: Context) -> None:
    """max_new_tokens ends a sequence with "length" after exactly so many tokens."""
    pipeline = context.pipeline()
    for limit in (1, 2, 7):
        result = pipeline.generate(PROMPT, max_new_tokens=limit)
        equal(result.finish_reasons, ["length"], f"finish_reasons with max_new_tokens={limit}")
        same_tokens(result, [TEXT_TOKENS[:limit]], f"token_ids with max_new_tokens={limit}")


@check("L4.stop.max_length", profiles=PROFILES, spec=["Stop.5"])
def max_length(context: Context) -> None:
    """max_length counts the prompt too."""
    result = context.pipeline().generate("Hi ", max_length=5)
    equal(result.finish_reasons, ["length"], "finish_reasons")
    same_tokens(result, [TEXT_TOKENS[2:4]], "token_ids with max_length=5 after a prompt of 3")


@check("L4.stop.min_new_tokens", profiles=PROFILES, spec=["Sampling.9"])
def min_new_tokens(context: Context) -> None:
    """Before min_new_tokens no end-of-sequence token is chosen."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=14, min_new_tokens=13)
    expect(EOS not in result.token_ids[0][:13], "an end-of-sequence token came too early", token_ids=result.token_ids)
    equal(result.token_ids[0][: len(TEXT_TOKENS)], TEXT_TOKENS, "the tokens before the ban mattered")


@check("L4.stop.token", profiles=PROFILES, spec=["Stop.1", "Stop.2"])
def token(context: Context) -> None:
    """A stop token ends a sequence with "stop"; its text is left out."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30, stop_token_ids=[ord("!")])
    equal(result.finish_reasons, ["stop"], "finish_reasons")
    same_tokens(result, [TEXT_TOKENS[:7]], "token_ids up to the stop token")
    equal(result.texts, ["i \U0001f642"], "the text before the stop token")


@check("L4.stop.string", profiles=PROFILES, spec=["Stop.3"])
def string(context: Context) -> None:
    """A stop string ends a sequence with "stop" and is not part of the text."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30, stop_strings=["!"])
    equal(result.finish_reasons, ["stop"], "finish_reasons")
    equal(result.texts, ["i \U0001f642"], "the text before the stop string")


@check("L4.stop.string_across_tokens", profiles=PROFILES, spec=["Stop.3"])
def string_across_tokens(context: Context) -> None:
    """A stop string may span tokens, characters of several tokens among them."""
    pipeline = context.pipeline()
    for stop, text in ((" \U0001f642", "i"), ("\U0001f642!é", "i "), ("i \U0001f642", ""), ("é.", "i \U0001f642!")):
        result = pipeline.generate(PROMPT, max_new_tokens=30, stop_strings=[stop])
        equal((result.texts, result.finish_reasons), ([text], ["stop"]), f"the outcome with the stop string {stop!r}")


@check("L4.stop.string_included", profiles=PROFILES, spec=["Stop.3"])
def string_included(context: Context) -> None:
    """With include_stop_str_in_output the stop string stays, and nothing after it."""
    result = context.pipeline().generate(
        PROMPT, max_new_tokens=30, stop_strings=["\U0001f642!"], include_stop_str_in_output=True
    )
    equal(result.texts, ["i \U0001f642!"], "the text with its stop string")


@check("L4.stop.string_near_miss", profiles=PROFILES, spec=["Stop.3"])
def string_near_miss(context: Context) -> None:
    """The beginning of a stop string that is not completed is part of the text."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30, stop_strings=["\U0001f642?", "é.é", ". "])
    equal((result.texts, result.finish_reasons), ([TEXT], ["stop"]), "the outcome without a match")


@check("L4.stop.first_of_several", profiles=PROFILES, spec=["Stop.4"])
def first_of_several(context: Context) -> None:
    """Of several stop strings the one that is complete first ends the text."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30, stop_strings=["é", "\U0001f642!é.", "!"])
    equal(result.texts, ["i \U0001f642"], "the text before the first stop string")


@check("L4.stop.longest_of_one_end", spec=["Stop.4"])
def longest_of_one_end(context: Context) -> None:
    """Of stop strings that end at the same character the longest ends the text."""
    pipeline = context.pipeline()
    for stops in (["é", "!é", "\U0001f642!é"], ["\U0001f642!é", "!é", "é"], ["!é", "\U0001f642!é"]):
        result = pipeline.generate(PROMPT, max_new_tokens=30, stop_strings=stops)
        equal(result.texts, ["i "], f"the text with the stop strings {stops}")
        equal(result.token_ids, [TEXT_TOKENS[:9]], f"the tokens with the stop strings {stops}")


@check("L4.stop.string_inside_token", spec=["Stop.3", "Stop.4"])
def string_inside_token(context: Context) -> None:
    """A stop string may begin and end inside one token, several of them in the same one."""
    with _long_token(context, "one END two") as pipeline:
        for stops, text in (
            (["END"], "one "),
            (["o EN", "e E"], "on"),
            (["two", "END"], "one "),
            (["D t", "one EN"], ""),
            # What begins first need not be complete first.
            (["END tw", "ND"], "one E"),
        ):
            result = pipeline.generate(PROMPT, max_new_tokens=4, stop_strings=stops, logit_bias={_LONG: 1e4})
            got = result.texts, result.token_ids, result.finish_reasons
            equal(got, ([text], [[_LONG]], ["stop"]), f"the outcome with the stop strings {stops}")


@check("L4.stop.string_over_long_tokens", spec=["Stop.3", "Pipeline.stream.2"])
def string_over_long_tokens(context: Context) -> None:
    """A stop string may begin inside a token, span a second and end inside a third; none of it is streamed."""
    with _long_token(context, "ab cd") as pipeline:
        for stop, text in (("dab cda", "ab c"), ("cdab cdab c", "ab "), ("b cdab cdab cda", "a")):
            arguments = {"max_new_tokens": 6, "stop_strings": [stop], "logit_bias": {_LONG: 1e4}}
            result = pipeline.generate(PROMPT, **arguments)  # type: ignore[arg-type]
            equal((result.texts, result.finish_reasons), ([text], ["stop"]), f"the outcome with {stop!r}")
            equal(len(result.token_ids[0]), 4 if text == "a" else 3, f"the number of tokens with {stop!r}")
            streamed = "".join(chunk.text for chunk in pipeline.stream(PROMPT, **arguments))  # type: ignore[arg-type]
            equal(streamed, text, f"the chunks joined, with {stop!r}")


@check("L4.stop.string_over_special_token", spec=["Stop.3", "Tokenizer.decode.2"])
def string_over_special_token(context: Context) -> None:
    """A special token has no text, so what stands before and after it is one stop string."""
    pipeline = context.pipeline()
    result = pipeline.generate(PROMPT, max_new_tokens=16, ignore_eos=True, stop_strings=[".i"])
    equal(result.texts, ["i \U0001f642!é"], "the text before a stop string with a special token inside")
    equal(result.token_ids, [[*TEXT_TOKENS, EOS, TEXT_TOKENS[0]]], "the tokens up to the one that completes it")


@check("L4.stop.every_eos", spec=["Stop.1"])
def every_eos(context: Context) -> None:
    """Each of several end-of-sequence tokens ends a sequence, wherever it stands in the list."""
    pipeline = context.pipeline()
    for ends, count in (([EOS, 33], 7), ([33, EOS], 7), ([1, 2, 32], 2), ([46, EOS, 3], 10), ([5, EOS], 11)):
        result = pipeline.generate(PROMPT, max_new_tokens=30, eos_token_id=ends)
        wanted = [*TEXT_TOKENS, EOS][:count]
        equal((result.token_ids, result.finish_reasons), ([wanted], ["stop"]), f"the outcome with eos_token_id={ends}")


@check("L4.stop.ignore_eos_keeps_stop_tokens", spec=["Stop.1"])
def ignore_eos_keeps_stop_tokens(context: Context) -> None:
    """ignore_eos ignores eos_token_id alone: a stop token stops, be it the same one."""
    pipeline = context.pipeline()
    for stops, count in (([33], 7), ([EOS], 11), ([4, 46], 10)):
        result = pipeline.generate(PROMPT, max_new_tokens=30, ignore_eos=True, stop_token_ids=stops)
        wanted = [*TEXT_TOKENS, EOS][:count]
        equal((result.token_ids, result.finish_reasons), ([wanted], ["stop"]), f"the outcome with stop tokens {stops}")


@check("L4.stop.tokens_beside_eos", spec=["Stop.1"])
def tokens_beside_eos(context: Context) -> None:
    """Stop tokens are added to the end-of-sequence tokens, and do not replace them."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=30, stop_token_ids=[7, 8])
    equal(result.token_ids, [[*TEXT_TOKENS, EOS]], "token_ids with stop tokens that never come")


@check("L4.stop.token_included", spec=["Stop.2"])
def token_included(context: Context) -> None:
    """With include_stop_str_in_output a stop token's text stays."""
    result = context.pipeline().generate(
        PROMPT, max_new_tokens=30, stop_token_ids=[33], include_stop_str_in_output=True
    )
    equal((result.texts, result.token_ids), (["i \U0001f642!"], [TEXT_TOKENS[:7]]), "the text with its stop token")


@check("L4.stop.before_length", spec=["Stop.7"])
def before_length(context: Context) -> None:
    """What stops at the last token that a limit allows ends with "stop"."""
    pipeline = context.pipeline()
    cases: tuple[dict[str, Any], ...] = (
        {"max_new_tokens": 11},
        {"max_new_tokens": 7, "stop_token_ids": [33]},
        {"max_new_tokens": 7, "stop_strings": ["\U0001f642!"]},
        {"max_length": 8, "stop_strings": ["!"]},
    )
    for case in cases:
        equal(pipeline.generate(PROMPT, **case).finish_reasons, ["stop"], f"finish_reasons with {case}")


@check("L4.stop.tighter_limit", spec=["Stop.5"])
def tighter_limit(context: Context) -> None:
    """Of max_new_tokens and max_length the tighter one counts."""
    pipeline = context.pipeline()
    for new, length, count in ((3, 20, 3), (9, 5, 4), (4, 5, 4)):
        result = pipeline.generate(PROMPT, max_new_tokens=new, max_length=length)
        got = len(result.token_ids[0]), result.finish_reasons
        equal(got, (count, ["length"]), f"the outcome with max_new_tokens={new} and max_length={length}")


@check("L4.stop.string_in_batch", spec=["Stop.3", "Stop.8"])
def string_in_batch(context: Context) -> None:
    """A stop string ends its own sequence, and its neighbours go on."""
    result = context.pipeline().generate(["Hi ", PROMPT, "!"], max_new_tokens=30, stop_strings=["i "])
    equal(result.texts, ["\U0001f642!é.", "", "é."], "texts beside a sequence that met the stop string")
    equal(len(result.token_ids[1]), 2, "the number of tokens of the one that did")


@check("L4.stop.prompt_is_not_searched", profiles=PROFILES, spec=["Stop.3"])
def prompt_is_not_searched(context: Context) -> None:
    """A stop string in the prompt stops nothing."""
    result = context.pipeline().generate("Hi ", max_new_tokens=30, stop_strings=["Hi", "i "])
    equal(result.texts, ["\U0001f642!é."], "the text after a prompt that holds a stop string")


@check("L4.stop.time", profiles=PROFILES, spec=["Stop.6"])
def time_limit(context: Context) -> None:
    """max_time ends a sequence with "time"."""
    result = context.pipeline().generate(PROMPT, max_new_tokens=60, ignore_eos=True, max_time=1e-6)
    equal(result.finish_reasons, ["time"], "finish_reasons with max_time=1e-6")
    expect(len(result.token_ids[0]) < 60, "the time limit ended nothing", num_tokens=len(result.token_ids[0]))


@check("L4.stop.context_full", profiles=("step", "generator"), spec=["Stop.5"])
def context_full(context: Context) -> None:
    """The model's context ends a sequence with "length"."""
    golden = context.golden("text")
    result = context.pipeline().generate(PROMPT, ignore_eos=True)
    equal(result.finish_reasons, ["length"], "finish_reasons")
    equal(1 + len(result.token_ids[0]), golden.context_length, "tokens of prompt and output")
