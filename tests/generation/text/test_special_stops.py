# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Stop strings that are special tokens, or hold some: they end a sequence, although their text is not given out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from genai_iface import GenerationConfig, TextGenerationPipeline
from genai_iface.generation import StopStrings, TextStream
from tests.fakes import FakeModel
from tests.generation.text.tokenizers_for_tests import byte_level
from tests.marks import examples

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(300, 80))

TOKENIZER = byte_level()
TOKENIZER.inner.add_special_tokens([AddedToken("<|a|>"), AddedToken("<|b|>")])
A, B = (TOKENIZER.inner.token_to_id(text) for text in ("<|a|>", "<|b|>"))
LETTERS = [TOKENIZER.inner.token_to_id(letter) for letter in "abx<|>"] + [TOKENIZER.encode(" ")[0], A, B]
STOPS = ("<|a|>", "<|b|>", "<|a|><|b|>", "x<|a|>", "a|>b", "ab", "<", "|><|", "b<|a|>x", "<|a|>a<|b|>")


def whole(tokens: Sequence[int]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def first_end(tokens: Sequence[int], stops: Sequence[str]) -> int | None:
    """After how many tokens one of the two texts holds a stop string."""
    for count in range(1, len(tokens) + 1):
        texts = (TOKENIZER.decode(tokens[:count]), whole(tokens[:count]))
        if any(stop in text for stop in stops for text in texts):
            return count
    return None


@RELAXED
@given(
    tokens=st.lists(st.sampled_from(LETTERS), max_size=12),
    stops=st.lists(st.sampled_from(STOPS), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_a_stream_ends_where_a_stop_string_is_complete(tokens: list[int], stops: list[str], include: bool) -> None:
    stream = TextStream(TOKENIZER, StopStrings(stops, include=include))
    text, ended = "", None
    for count, token in enumerate(tokens, start=1):
        piece, found = stream.push(token)
        text += piece
        if found:
            ended = count
            break
    text += stream.finish()
    assert ended == first_end(tokens, stops)
    if ended is None:
        assert text == TOKENIZER.decode(tokens)
    elif include:
        assert any(text.endswith(stop) for stop in stops)
    else:
        assert TOKENIZER.decode(tokens).startswith(text)
        assert not any(stop in text for stop in stops)


def speaking(said: Sequence[int]) -> TextGenerationPipeline:
    """Says these tokens after any prompt, and again and again "x"."""
    told = [*said]

    def script(tokens: Sequence[int]) -> int:
        at = len(tokens) - 1 - [*tokens].index(LETTERS[2])
        return told[at] if at < len(told) else LETTERS[2]

    model = FakeModel(TOKENIZER.vocab_size, context_length=64, script=script)
    return TextGenerationPipeline.from_parts(model, TOKENIZER)


@pytest.mark.parametrize(
    ("said", "stop", "text", "count"),
    [
        ([LETTERS[0], A, LETTERS[1]], "<|a|>", "a", 2),
        ([LETTERS[0], A, B, LETTERS[1]], "<|a|><|b|>", "a", 3),
        ([LETTERS[0], A, LETTERS[1], B], "a<|a|>b", "", 3),
        ([A, B, LETTERS[0]], "b|>a", "", 3),
        ([LETTERS[0], B, LETTERS[1]], "<|a|>", "abxxxxxx", 9),
    ],
)
def test_every_way_of_generating_ends_there(said: list[int], stop: str, text: str, count: int) -> None:
    pipe = speaking(said)
    fields = {"stop_strings": [stop], "max_new_tokens": 9}
    result = pipe.generate("x", **fields)
    assert (result.text, len(result.token_ids[0])) == (text, count)
    assert result.finish_reasons == ["stop" if count < 9 else "length"]
    chunks = [*pipe.stream("x", **fields)]
    assert "".join(chunk.text for chunk in chunks) == text
    assert [token for chunk in chunks for token in chunk.token_ids] == result.token_ids[0]
    with pipe.chat(**fields) as session:
        assert session.send("x") == text
    beams = pipe.generate("x", num_beams=2, **fields)
    assert (beams.text, beams.token_ids) == (text, result.token_ids)
    with pipe.scheduler(thread=False) as scheduler:
        assert scheduler.submit("x", GenerationConfig(**fields)).result().text == text
    if count < 9:
        shown = pipe.generate("x", include_stop_str_in_output=True, **fields).text
        assert shown == text + stop
