# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of prompts, continuations and texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai_iface import CacheOverflowError, Capability, InvalidInputError, TextGenerationPipeline
from genai_iface.generation._scoring import perplexity, score_tokens, split_continuation
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel
from tests.generation.text.tokenizers_for_tests import metaspace


def expected(model: FakeModel, tokens: list[int], start: int) -> list[float]:
    found = []
    for position in range(start, len(tokens)):
        logits = model.logits_after(tokens[:position]).astype(np.float64)
        found.append(float(logits[tokens[position]] - np.log(np.exp(logits).sum())))
    return found


@settings(deadline=None)
@given(data=st.data())
def test_scores_are_those_of_the_tokens_however_they_run(data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, 257), min_size=1, max_size=90))
    start = data.draw(st.integers(1, len(tokens)))
    without = data.draw(st.sampled_from([set(), {Capability.LOGITS_ALL}, {Capability.CHUNKED_PREFILL}]))
    model = FakeModel(258, capabilities=ALL_CAPABILITIES - without)
    found = score_tokens(model, tokens, start, num_top=2, chunk_size=data.draw(st.integers(1, 100)))
    assert [entry.token_id for entry in found] == tokens[start:]
    assert [entry.logprob for entry in found] == pytest.approx(expected(model, tokens, start), abs=1e-9)
    assert all(len(entry.top) == 2 for entry in found)
    assert model.open_caches == []


def test_score_of_a_continuation() -> None:
    model = FakeModel(258)
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    score = pipe.score("ab", "cde")
    assert score.token_ids == list(b"cde")
    assert score.token_logprobs == pytest.approx(expected(model, list(b"abcde"), 2))
    assert score.logprob == pytest.approx(sum(score.token_logprobs))
    assert not score.is_greedy
    greedy = pipe.generate([97, 98], max_new_tokens=4).token_ids[0]
    entries = score_tokens(model, [97, 98, *greedy], 2, num_top=1)
    assert all(entry.top[0][0] == entry.token_id for entry in entries)
    assert pipe.score("ab", "").token_ids == []
    with pytest.raises(InvalidInputError, match="cannot be scored"):
        pipe.score("", "ab")
    with pytest.raises(CacheOverflowError):
        pipe.score("a" * 200, "b" * 100)
    assert model.open_caches == []


def test_a_token_over_the_border_counts_for_the_continuation() -> None:
    tokenizer = metaspace()
    whole, start = split_continuation(tokenizer, "new ke", "ys")
    assert whole == tokenizer.encode("new keys")
    assert whole[:start] == tokenizer.encode("new ke")[:start]


def test_perplexity() -> None:
    model = FakeModel(258)
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    tokens = list(b"some text")
    assert pipe.perplexity("some text") == pytest.approx(math.exp(-np.mean(expected(model, tokens, 1))))
    with pytest.raises(InvalidInputError, match="no perplexity"):
        pipe.perplexity("a")


def test_a_long_text_is_scored_in_windows() -> None:
    model = FakeModel(258, context_length=8)
    tokens = list(b"a text that is longer")
    wanted, done = [], 1
    for begin in range(0, len(tokens), 3):
        end = min(begin + 8, len(tokens))
        wanted += expected(model, tokens[begin:end], done - begin)
        done = end
        if end == len(tokens):
            break
    assert len(wanted) == len(tokens) - 1
    found = perplexity(model, tokens, window=8, stride=3)
    assert found == pytest.approx(math.exp(-np.mean(wanted)))
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    assert pipe.perplexity("a text that is longer", stride=3) == pytest.approx(found)
    for window, stride in ((1, None), (8, 8), (8, 0)):
        with pytest.raises(InvalidInputError, match="not legal"):
            perplexity(model, tokens, window=window, stride=stride)


# echo


def test_echo_returns_the_prompt_before_its_continuation() -> None:
    pipe = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer())
    plain = pipe.generate(["ab", "cde"], max_new_tokens=4)
    echoed = pipe.generate(["ab", "cde"], max_new_tokens=4, echo=True)
    assert echoed.texts == ["ab" + plain.texts[0], "cde" + plain.texts[1]]
    assert echoed.token_ids == [[97, 98, *plain.token_ids[0]], [99, 100, 101, *plain.token_ids[1]]]
    assert echoed.logprobs is None
    chunks = list(pipe.stream("ab", max_new_tokens=4, echo=True))
    assert chunks[0].text.startswith("ab")
    assert "".join(chunk.text for chunk in chunks) == echoed.texts[0]


@pytest.mark.parametrize("limit", [0, 3])
def test_echo_with_log_probabilities(limit: int) -> None:
    model = FakeModel(258)
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer(), prefill_chunk_size=4)
    result = pipe.generate(["a longer prompt", "b"], max_new_tokens=limit, echo=True, logprobs=1)
    assert result.logprobs is not None
    for tokens, entries in zip(result.token_ids, result.logprobs, strict=True):
        assert [entry.token_id for entry in entries] == tokens
        assert math.isnan(entries[0].logprob)
        assert [entry.logprob for entry in entries[1:]] == pytest.approx(expected(model, tokens, 1), abs=1e-9)
    assert result.finish_reasons == ["length", "length"]


def test_a_character_between_prompt_and_continuation_is_whole() -> None:
    data = list("ü".encode())
    model = FakeModel(258, script=lambda tokens: data[1] if tokens[-1] == data[0] else 33)
    result = TextGenerationPipeline.from_parts(model, ByteTokenizer()).generate([data[0]], max_new_tokens=2, echo=True)
    assert result.text == "ü!"


def test_a_prompt_that_is_interrupted_keeps_one_entry_per_token() -> None:
    pipe = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer(), prefill_chunk_size=4)
    model = pipe.model
    assert isinstance(model, FakeModel)
    model._on_step = lambda step: pipe.cancel() if step == 2 else None
    result = pipe.generate("x" * 20, max_new_tokens=5, echo=True, logprobs=0)
    assert result.logprobs is not None
    assert len(result.logprobs[0]) == len(result.token_ids[0]) == 20
    assert [math.isnan(entry.logprob) for entry in result.logprobs[0]] == [True] + [False] * 8 + [True] * 11
