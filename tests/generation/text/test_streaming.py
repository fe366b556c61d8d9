# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Text that is streamed is the text of all tokens, in whole characters, at a cost that does not grow."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface.generation import Detokenizer, StopStrings, TextStream
from tests.fakes import ByteTokenizer
from tests.generation.text.tokenizers_for_tests import TEXTS, Wrapped, byte_level, metaspace
from tests.marks import examples

# A busy machine is slow; that is not a finding.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


KINDS = {"byte_level": byte_level(), "metaspace": metaspace()}
kinds = pytest.mark.parametrize("kind", KINDS)


def pieces(tokenizer: Wrapped, tokens: list[int], context: list[int] | None = None) -> list[str]:
    stream = Detokenizer(tokenizer, context or [])
    given_out = [stream.push(token)[0] for token in tokens]
    return [*given_out, stream.finish()]


@kinds
@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_text_join_to_it(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    tokens = tokenizer.encode(text)
    streamed = pieces(tokenizer, tokens)
    assert "".join(streamed) == tokenizer.decode(tokens) == text
    assert not any("\ufffd" in piece for piece in streamed)


def test_the_texts_make_tokens_that_end_within_a_character() -> None:
    # Otherwise the test above would pass without holding anything back.
    for tokenizer in KINDS.values():
        singles = [tokenizer.decode([token]) for text in TEXTS for token in tokenizer.encode(text)]
        assert sum("\ufffd" in single for single in singles) > 20


@kinds
@settings(RELAXED, max_examples=examples(200, 60))
@given(data=st.data())
def test_random_tokens_join_to_their_decoding(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    token = st.one_of(
        st.integers(0, tokenizer.vocab_size - 1),
        # Bytes are rare among all tokens, and they are where it goes wrong.
        st.integers(3, 258),
    )
    tokens = data.draw(st.lists(token, max_size=40))
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@kinds
@settings(RELAXED, max_examples=examples(200, 60))
@given(data=st.data())
def test_random_text_in_ten_scripts_joins_to_itself(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    text = "".join(data.draw(st.lists(st.sampled_from("".join(TEXTS)), max_size=40)))
    tokens = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@kinds
@settings(RELAXED, max_examples=examples(200, 60))
@given(data=st.data())
def test_a_context_is_continued_with_its_space(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    words = "".join(TEXTS).split()
    prompt = " ".join(data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=60)))
    more = " " + " ".join(data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=10)))
    context = tokenizer.encode(prompt)
    tokens = tokenizer.encode(prompt + more)[len(context) :]
    if tokenizer.encode(prompt + more)[: len(context)] == context:
        assert prompt + "".join(pieces(tokenizer, tokens, context)) == prompt + more


def test_metaspace_keeps_the_space_after_a_prompt_and_drops_it_without() -> None:
    tokenizer = KINDS["metaspace"]
    context, tokens = tokenizer.encode("The"), tokenizer.encode("new keys")
    assert "".join(pieces(tokenizer, tokens, context)) == " new keys"
    assert "".join(pieces(tokenizer, tokens)) == "new keys"


def test_a_special_token_in_between_does_not_cost_the_next_space() -> None:
    tokenizer = KINDS["metaspace"]
    tokens = [*tokenizer.encode("new keys"), 1, 2, 1, *tokenizer.encode("new")]
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens) == "new keys new"


def test_a_bad_byte_spoils_nothing_that_was_given_out() -> None:
    # With byte fallback, one bad byte turns the whole run of bytes into U+FFFD.
    tokenizer = KINDS["metaspace"]
    good = [byte + 3 for byte in "🙂".encode()]
    tokens = [*tokenizer.encode("a"), *good, 0xFF + 3]
    assert tokenizer.decode(tokens) == "a" + "\ufffd" * 5
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_characters_come_as_soon_as_they_are_complete() -> None:
    stream = Detokenizer(ByteTokenizer())
    assert [stream.push(byte)[0] for byte in "aé🙂".encode()] == ["a", "", "é", "", "", "", "🙂"]


def test_incomplete_bytes_at_the_end_are_flushed_as_replacement() -> None:
    stream = Detokenizer(ByteTokenizer())
    assert [stream.push(byte)[0] for byte in "🙂".encode()[:2]] == ["", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_ids_beyond_the_tokenizer_have_no_text() -> None:
    stream = Detokenizer(ByteTokenizer())
    assert [stream.push(token)[0] for token in (97, 5000, 98)] == ["a", "", "b"]


@kinds
def test_the_cost_of_a_token_does_not_grow_with_the_sequence(kind: str) -> None:
    tokenizer = KINDS[kind]
    tokens = tokenizer.encode(TEXTS[0] * 40)
    stream = Detokenizer(tokenizer)
    costs = []
    for token in tokens:
        before = tokenizer.num_decoded
        stream.push(token)
        costs.append(tokenizer.num_decoded - before)
    assert len(tokens) > 1000
    assert max(costs) < 60


@kinds
def test_endless_broken_bytes_cost_little_and_spoil_nothing(kind: str) -> None:
    tokenizer = KINDS[kind]
    bad = next(token for token in range(258, 2, -1) if tokenizer.decode([token]) == "\ufffd")
    tokens = [*tokenizer.encode("a"), *[bad] * 2000, *tokenizer.encode("c" * 300)]
    before = tokenizer.num_decoded
    streamed = pieces(tokenizer, tokens)
    cost = tokenizer.num_decoded - before
    assert "".join(streamed) == tokenizer.decode(tokens)
    # Looking at all of the run at every token would be 2,000,000.
    assert cost < 200_000
    # Good text after it comes before the end.
    assert streamed[-1] == ""


# Stop strings


@kinds
@settings(RELAXED, max_examples=examples(200, 60))
@given(data=st.data())
def test_stop_strings_cut_where_the_text_says_however_it_is_tokenized(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    text = "".join(data.draw(st.lists(st.sampled_from(["ab", "a", "b", "c", "é", "🙂", " "]), max_size=25)))
    stops = data.draw(st.lists(st.text("abcé🙂 ", min_size=1, max_size=3), min_size=1, max_size=3))
    tokens = tokenizer.encode(text)
    text = tokenizer.decode(tokens)
    # Character by character: the first stop string that is complete ends it, the longest if there are two.
    expected, complete = text, False
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            expected, complete = text[: end - max(map(len, found))], True
            break
    stream = TextStream(tokenizer, StopStrings(stops))
    streamed, is_over = "", False
    for token in tokens:
        piece, is_over = stream.push(token)
        streamed += piece
        assert expected.startswith(streamed), "something was given out that has to be taken back"
        if is_over:
            break
    assert is_over == complete
    assert streamed + stream.finish() == expected


@pytest.mark.parametrize(("include", "expected"), [(False, "one "), (True, "one STOP")], ids=["excluded", "included"])
def test_a_stop_string_over_several_tokens(include: bool, expected: str) -> None:
    stream = TextStream(ByteTokenizer(), StopStrings(["STOP"], include=include))
    pushed = [stream.push(byte) for byte in b"one STOP"]
    assert "".join(text for text, _ in pushed) == expected
    assert [is_over for _, is_over in pushed] == [False] * 7 + [True]
    assert stream.finish() == ""


def test_the_beginning_of_a_stop_string_is_held_back_and_flushed() -> None:
    stream = TextStream(ByteTokenizer(), StopStrings(["STOP"]))
    assert [stream.push(byte)[0] for byte in b"a STab ST"] == ["a", " ", "", "", "STa", "b", " ", "", ""]
    assert stream.finish() == "ST"


def test_a_stop_string_in_unsettled_text_ends_at_once() -> None:
    # A newline is a byte token here, so a later byte could spoil it, but none comes.
    stream = TextStream(KINDS["metaspace"], StopStrings(["\n"]))
    assert stream.push(KINDS["metaspace"].encode("a")[-1])[1] is False
    assert stream.push(ord("\n") + 3) == ("", True)


def test_a_tokenizer_is_probed_for_byte_tokens_once() -> None:
    class Unhashable(Wrapped):
        __hash__ = None  # type: ignore[assignment]

    for kind, is_probed_again in ((Wrapped, False), (Unhashable, True)):
        tokenizer = kind(KINDS["byte_level"].inner)
        first = Detokenizer(tokenizer)
        num_probed, tokenizer.num_decoded = tokenizer.num_decoded, 0
        second = Detokenizer(tokenizer)
        assert num_probed > 1 and first._probe == second._probe is not None
        assert (tokenizer.num_decoded == num_probed) is is_probed_again
