# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Constrained output in every kind of call: batches, drafts, beams, streams, conversations, rewinds."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from genai_iface import GenerationConfig, InvalidInputError
from genai_iface.generation import DraftModel, ModelGenerator, PromptLookup
from tests.fakes import FakeModel
from tests.generation.constraints.constrained import KINDS, NESTED, PADDING, PERSON, pipeline, pipeline_of


def test_prompts_of_a_batch_have_grammars_of_their_own_and_give_what_they_give_alone() -> None:
    configs = [
        GenerationConfig(regex="[ab]{2,8}", max_new_tokens=30),
        GenerationConfig(json_schema=PERSON, max_new_tokens=200, temperature=2.0, seed=5),
        GenerationConfig(max_new_tokens=10),
        GenerationConfig(lark_grammar=NESTED, max_new_tokens=60),
    ]
    prompts = [[1, 2], [3], [4, 5, 6], [7]]
    together = pipeline("byte_level").generate(prompts, configs)
    for index in (0, 2, 3):
        alone = pipeline("byte_level").generate(prompts[index], configs[index])
        assert together.token_ids[index] == alone.token_ids[0]
    jsonschema.validate(json.loads(together.texts[1]), PERSON)


def test_several_sequences_of_a_prompt_do_not_share_a_state() -> None:
    result = pipeline("byte_level").generate(
        [1], regex="[a-z]{1,6}", num_return_sequences=6, temperature=5.0, seed=0, max_new_tokens=20
    )
    assert all(re.fullmatch("[a-z]{1,6}", text) for text in result.texts)
    assert len(set(result.texts)) > 3


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 3}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("way", ["lookup", "same model", "other model"])
def test_speculation_gives_the_tokens_of_plain_decoding(way: str, options: dict[str, Any]) -> None:
    tokenizer = KINDS["byte_level"]
    size = tokenizer.vocab_size + PADDING
    script = None if way != "other model" else (lambda tokens: tokens[-1])
    speculation = (
        PromptLookup(6) if way == "lookup" else DraftModel(FakeModel(size, context_length=2000, script=script))
    )
    fields: list[dict[str, Any]] = [
        {"regex": "(ab|ba|a){40}"},
        {"json_schema": PERSON},
        {"regex": "abab", "ignore_eos": True},
    ]
    for field in fields:
        call = {**field, **options, "max_new_tokens": 120}
        prompts = [tokenizer.encode("abababab"), tokenizer.encode("{")]
        plain = pipeline("byte_level").generate(prompts, **call)
        guessed = pipeline("byte_level").generate(prompts, **call, speculation=speculation)
        assert guessed.token_ids == plain.token_ids
        assert guessed.finish_reasons == plain.finish_reasons
        if way == "same model":
            assert guessed.perf_metrics.acceptance_rate >= 0.75


def test_requests_of_a_scheduler_have_grammars_of_their_own() -> None:
    with pipeline("byte_level") as pipe, pipe.scheduler(slots=2) as scheduler:
        configs: list[dict[str, Any]] = [{"regex": "[ab]{2,8}"}, {"json_schema": PERSON}, {"lark_grammar": NESTED}, {}]
        requests = [scheduler.submit([1, index], max_new_tokens=200, **one) for index, one in enumerate(configs)]
        for index, (request, one) in enumerate(zip(requests, configs, strict=True)):
            alone = pipe.generate([1, index], max_new_tokens=200, **one)
            assert request.result(timeout=60).token_ids == alone.token_ids


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_beams_are_all_allowed(size: int, ignore_eos: bool) -> None:
    result = pipeline("byte_level").generate(
        [[1, 2], [3]],
        regex="(ab|cd|e){2,3}",
        num_beams=size,
        num_return_sequences=size,
        max_new_tokens=20,
        ignore_eos=ignore_eos,
    )
    assert len(result.texts) == 2 * size
    assert all(re.fullmatch("(ab|cd|e){2,3}", text) for text in result.texts)


def test_more_beams_than_the_grammar_has_outputs_are_refused() -> None:
    tokenizer = KINDS["byte_level"]
    call = {"regex": "a|b", "num_beams": 3, "max_new_tokens": 5}
    assert pipeline_of(tokenizer).generate([1], **call, num_return_sequences=2).texts != [""]
    with pytest.raises(InvalidInputError, match="Only 2 sequences are possible, num_return_sequences=3"):
        pipeline_of(tokenizer).generate([1], **call, num_return_sequences=3)


def test_chunks_of_a_stream_join_to_the_text() -> None:
    call: dict[str, Any] = {"json_schema": PERSON, "temperature": 2.0, "seed": 9, "max_new_tokens": 200}
    chunks = list(pipeline("metaspace").stream([1], **call))
    assert len(chunks) > 3
    text = "".join(chunk.text for chunk in chunks)
    assert text == pipeline("metaspace").generate([1], **call).text
    jsonschema.validate(json.loads(text), PERSON)


def test_every_answer_of_a_conversation_begins_anew() -> None:
    with pipeline("byte_level") as pipe, pipe.chat(regex="[ab]{2}c", max_new_tokens=20) as session:
        answers = [session.send("one"), session.send("two"), session.regenerate(temperature=2.0, seed=1)]
        assert all(re.fullmatch("[ab]{2}c", answer) for answer in answers)
        assert re.fullmatch("[0-9]{2}", session.send("three", regex="[0-9]{2}"))


def test_echo_is_in_front_of_what_the_grammar_is_about() -> None:
    result = pipeline("byte_level").generate("The", regex="[ab]{2}", echo=True, max_new_tokens=9)
    assert re.fullmatch("The[ab]{2}", result.text)


def test_after_a_rewind_it_goes_on_as_if_the_tokens_had_never_been_there() -> None:
    tokenizer = KINDS["byte_level"]
    config = GenerationConfig(json_schema=PERSON, temperature=2.0, seed=4, max_new_tokens=200)

    def finish(generator: ModelGenerator[Any]) -> list[int]:
        while not generator.is_done():
            generator.generate_next_token()
        return generator.get_sequence(0)

    def start() -> ModelGenerator[Any]:
        model = FakeModel(tokenizer.vocab_size + PADDING, context_length=2000)
        generator = ModelGenerator(model, config, tokenizer=tokenizer, eos_token_ids=[1])
        generator.append_tokens([5, 6])
        return generator

    expected = finish(start())
    generator = start()
    finish(generator)
    for length in (len(expected) - 1, 9, 2):
        generator.rewind_to(length)
        assert finish(generator) == expected
    # A new turn is a new output.
    generator.append_tokens([7])
    more = finish(generator)[len(expected) + 1 :]
    jsonschema.validate(json.loads(tokenizer.decode(more)), PERSON)


def test_bad_words_and_the_grammar_hold_together() -> None:
    tokenizer = KINDS["byte_level"]
    banned = tokenizer.encode("a")
    result = pipeline("byte_level").generate([5], regex="[ab]{3}", bad_words_ids=[banned], max_new_tokens=9)
    assert result.text == "bbb"
    with pytest.raises(InvalidInputError, match=r"ruled out by .* a constraint"):
        pipeline("byte_level").generate([5], regex="a{3}", bad_words_ids=[banned], max_new_tokens=9)
