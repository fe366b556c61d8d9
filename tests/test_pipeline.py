# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Prompt in, text out: kinds of prompts, streaming, asyncio, cancelling, closing."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import numpy as np
import pytest

from genai_iface import (
    CacheOverflowError,
    Capability,
    Chunk,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
)
from genai_iface.config import DEFAULT_MAX_NEW_TOKENS
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel, speaks
from tests.generation.text.tokenizers_for_tests import metaspace

TEXT = "Grüße, 世界! 🙂 done."


def speaking(text: str = TEXT, **arguments: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline.from_parts(FakeModel(258, script=speaks(text)), ByteTokenizer(), **arguments)


def hashing(**arguments: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline.from_parts(FakeModel(258, **arguments), ByteTokenizer())


def model_of(pipeline: TextGenerationPipeline) -> FakeModel:
    model = pipeline.model
    assert isinstance(model, FakeModel)
    return model


# Prompts


def test_a_text_gives_one_text() -> None:
    result = speaking().generate("1")
    assert result.text == TEXT
    assert result.texts == [TEXT]
    assert result.token_ids == [[*TEXT.encode(), ByteTokenizer.eos_token_id]]
    assert result.finish_reasons == ["stop"]
    assert result.logprobs is None
    assert result.seed is None


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [
        ("ab", [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        (("ab", "c"), [[97, 98], [99]]),
        ([97, 98], [[97, 98]]),
        (np.array([97, 98]), [[97, 98]]),
        ([[97, 98], [99]], [[97, 98], [99]]),
        (np.array([[97, 98], [99, 100]]), [[97, 98], [99, 100]]),
        ([{"role": "user", "content": "x"}], [list(b"<user>x\n<assistant>")]),
    ],
    ids=["text", "texts", "tuple", "ids", "array", "lists of ids", "array of ids", "messages"],
)
def test_kinds_of_prompts(prompt: Any, rows: list[list[int]]) -> None:
    pipeline = hashing()
    pipeline.generate(prompt, max_new_tokens=2)
    assert [cache[: len(row)] for cache, row in zip(model_of(pipeline).caches[0].rows, rows, strict=True)] == rows


def test_the_template_writes_the_special_tokens() -> None:
    pipeline = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer(adds_bos=True))
    pipeline.generate([{"role": "user", "content": "x"}], max_new_tokens=1)
    pipeline.generate("x", max_new_tokens=1)
    first, second = (cache.rows[0][0] for cache in model_of(pipeline).caches)
    assert (first, second) == (ord("<"), ByteTokenizer.bos_token_id)


@pytest.mark.parametrize(
    "prompt",
    ["", [], [""], ["a", ""], [[]], [[1], []], None, 5, [1.5], [True], ["a", 1], [[1], "a"], b"ab", {"role": "user"}],
)
def test_bad_prompts(prompt: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        hashing().generate(prompt)
    assert caught.value.remedy


def test_an_empty_text_is_legal_if_the_tokenizer_begins_it_with_a_token() -> None:
    pipeline = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer(adds_bos=True))
    assert len(pipeline.generate("", max_new_tokens=3).token_ids[0]) == 3


# Parameters


def test_results_are_in_prompt_order_and_as_if_alone() -> None:
    pipeline = hashing()
    prompts = ["a", "a longer prompt", "bc"]
    together = pipeline.generate(prompts, max_new_tokens=10)
    assert together.texts == [pipeline.generate(prompt, max_new_tokens=10).text for prompt in prompts]
    assert len(set(together.texts)) == 3


def test_defaults_config_and_overrides() -> None:
    pipeline = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer(), GenerationConfig(max_new_tokens=3))
    assert len(pipeline.generate("a").token_ids[0]) == 3
    assert len(pipeline.generate("a", max_new_tokens=4).token_ids[0]) == 4
    assert len(pipeline.generate("a", GenerationConfig(max_new_tokens=5)).token_ids[0]) == 5
    assert len(pipeline.generate("a", GenerationConfig(max_new_tokens=5), max_tokens=6).token_ids[0]) == 6
    pipeline.generation_config = GenerationConfig(max_new_tokens=7)
    assert len(pipeline("a").token_ids[0]) == 7


def test_the_folder_says_what_ends_a_sequence_unless_the_call_does() -> None:
    model = FakeModel(258, script=speaks("abcd"))
    pipeline = TextGenerationPipeline.from_parts(model, ByteTokenizer(), GenerationConfig(eos_token_id=[ord("b")]))
    assert pipeline.generate("1").token_ids == [[97, 98]]
    # A configuration that replaces the defaults does not take away the model's own stop token.
    assert pipeline.generate("1", GenerationConfig(max_new_tokens=9)).token_ids == [[97, 98]]
    assert pipeline.generate("1", eos_token_id=ord("c")).token_ids == [[97, 98, 99]]
    assert len(pipeline.generate("1", ignore_eos=True, max_new_tokens=9).token_ids[0]) == 9


def test_the_text_is_without_the_stop_token_unless_asked_for() -> None:
    pipeline = speaking("abc")
    assert pipeline.generate("1", stop_token_ids=[ord("b")]).text == "a"
    assert pipeline.generate("1", stop_token_ids=[ord("b")], include_stop_str_in_output=True).text == "ab"
    assert pipeline.generate("1", stop="bc").text == "a"
    assert pipeline.generate("1", stop="bc", include_stop_str_in_output=True).text == "abc"


def test_sampling_reports_the_seed_that_repeats_it() -> None:
    pipeline = hashing()
    first = pipeline.generate(["a", "b"], temperature=2.0, max_new_tokens=12)
    assert first.seed is not None
    assert pipeline.generate(["a", "b"], seed=first.seed, temperature=2.0, max_new_tokens=12).texts == first.texts
    assert pipeline.generate(["a", "b"], temperature=2.0, max_new_tokens=12).texts != first.texts


def test_several_sequences_for_each_prompt() -> None:
    result = hashing().generate(["a", "b"], num_return_sequences=3, temperature=2.0, seed=1, max_new_tokens=8)
    assert len(result.texts) == len(set(result.texts)) == 6
    again = hashing().generate(["a", "a", "a"], temperature=2.0, seed=1, max_new_tokens=8)
    assert again.texts == result.texts[:3]
    with pytest.raises(InvalidInputError, match="num_return_sequences"):
        hashing().generate("a", num_return_sequences=2)


def test_what_is_not_supported_or_unknown_is_refused() -> None:
    pipeline = hashing()
    with pytest.raises(UnsupportedCapabilityError, match="num_beams=4"):
        pipeline.generate("a", num_beams=4, temperature=0.5)
    with pytest.raises(InvalidInputError, match="'temprature' is not a generation parameter"):
        pipeline.stream("a", temprature=1)
    with pytest.raises(CacheOverflowError, match=r"Prompt 0 has 300 tokens, and the model takes at most 256\. Shorten"):
        pipeline.stream("a" * 300)
    assert model_of(pipeline).caches == []


def test_a_call_that_names_no_length_is_bounded() -> None:
    pipeline = hashing(context_length=None)
    result = pipeline.generate(["a", "a longer one"], ignore_eos=True)
    assert list(map(len, result.token_ids)) == [DEFAULT_MAX_NEW_TOKENS] * 2
    assert result.finish_reasons == ["length"] * 2
    assert sum(len(chunk.token_ids) for chunk in pipeline.stream("a", ignore_eos=True)) == DEFAULT_MAX_NEW_TOKENS
    # What the model's folder names, and the context, count as before.
    config = GenerationConfig(max_new_tokens=3)
    model = FakeModel(258)
    named = TextGenerationPipeline.from_parts(model, ByteTokenizer(), config)
    assert len(named.generate("a", ignore_eos=True).token_ids[0]) == 3
    short = hashing(context_length=20)
    assert len(short.generate("abcd", ignore_eos=True).token_ids[0]) == 16
    assert len(pipeline.generate("a", max_length=5).token_ids[0]) == 4


def test_the_cache_is_as_large_as_needed() -> None:
    pipeline = hashing()
    pipeline.generate(["abc", "a"], max_new_tokens=10)
    pipeline.generate("abc", max_length=7)
    pipeline.generate("abc")
    assert [cache.capacity for cache in model_of(pipeline).caches] == [13, 7, 256]


def test_logprobs_go_with_the_tokens() -> None:
    pipeline = hashing()
    result = pipeline.generate(["a", "bc"], max_new_tokens=6, logprobs=3)
    assert result.logprobs is not None
    for tokens, entries in zip(result.token_ids, result.logprobs, strict=True):
        assert [entry.token_id for entry in entries] == tokens
        assert all(len(entry.top) == 3 and entry.top[0] == (entry.token_id, entry.logprob) for entry in entries)
    chunks = list(pipeline.stream("a", max_new_tokens=6, logprobs=0))
    assert all(len(chunk.logprobs or ()) == len(chunk.token_ids) for chunk in chunks)


def test_measurements() -> None:
    metrics = hashing().generate(["ab", "c"], max_new_tokens=5).perf_metrics
    assert metrics.num_prompt_tokens == 3
    assert metrics.num_generated_tokens == 10
    assert metrics.num_decode_tokens == 8
    assert metrics.cache_bytes == 2 * 7 * 8
    assert 0 < metrics.prefill_seconds <= metrics.time_to_first_token
    assert metrics.decode_tokens_per_second == pytest.approx(8 / metrics.decode_seconds)
    nothing = hashing().generate("ab", max_new_tokens=0).perf_metrics
    assert (nothing.num_generated_tokens, nothing.time_to_first_token, nothing.decode_tokens_per_second) == (0, 0, 0)


# Streaming


def check_stream(chunks: list[Chunk], texts: list[str], token_ids: list[list[int]]) -> None:
    """The contract of ``Pipeline.stream``."""
    for index, (text, tokens) in enumerate(zip(texts, token_ids, strict=True)):
        mine = [chunk for chunk in chunks if chunk.index == index]
        assert "".join(chunk.text for chunk in mine) == text
        assert [token for chunk in mine for token in chunk.token_ids] == tokens
        assert [chunk.finish_reason is not None for chunk in mine] == [False] * (len(mine) - 1) + [True]


def test_a_stream_joins_to_the_result() -> None:
    pipeline = speaking()
    result = pipeline.generate(["1", "22"])
    chunks = list(pipeline.stream(["1", "22"]))
    check_stream(chunks, result.texts, result.token_ids)
    assert {chunk.text for chunk in chunks} >= {"ü", "世", "🙂"}
    assert len(chunks) == 2 * len(TEXT) + 2


@pytest.mark.parametrize(
    "fields", [{"stop": "世"}, {"max_new_tokens": 3}, {"stop": ["🙂 d", "!"]}, {"max_new_tokens": 0}]
)
def test_a_stream_that_ends_early_joins_to_the_result(fields: dict[str, Any]) -> None:
    pipeline = speaking()
    result = pipeline.generate("1", **fields)
    check_stream(list(pipeline.stream("1", **fields)), result.texts, result.token_ids)
    assert len(result.text) < len(TEXT)


def test_a_text_goes_on_with_a_space_and_an_answer_begins_anew() -> None:
    tokenizer = metaspace()
    words = tokenizer.encode("new keys")
    model = FakeModel(tokenizer.vocab_size, script=lambda tokens: words[len(tokens) - len(tokenizer.encode("The"))])
    pipeline = TextGenerationPipeline.from_parts(model, tokenizer)
    count = len(words)
    assert pipeline.generate("The", max_new_tokens=count).text == " new keys"
    assert pipeline.generate(tokenizer.encode("The"), max_new_tokens=count).text == " new keys"
    answer = pipeline.generate([{"role": "user", "content": "The"}], max_new_tokens=count)
    assert answer.text == "new keys" == tokenizer.decode(answer.token_ids[0])


def test_on_chunk_sees_the_stream() -> None:
    pipeline = speaking()
    seen: list[Chunk] = []
    result = pipeline.generate("1", on_chunk=seen.append)
    check_stream(seen, result.texts, result.token_ids)


def test_text_comes_while_it_is_generated() -> None:
    pipeline = speaking()
    stream = pipeline.stream("1")
    assert next(stream).text == "G"
    assert len(model_of(pipeline).steps) == 1
    assert next(stream).text == "r"
    assert len(model_of(pipeline).steps) == 2


@pytest.mark.parametrize("how", ["close", "drop", "exhaust", "fail"])
def test_a_stream_frees_its_cache(how: str) -> None:
    pipeline = speaking()
    model = model_of(pipeline)
    stream: Any = pipeline.stream("1")
    next(stream)
    assert len(model.open_caches) == 1
    if how == "close":
        stream.close()
    elif how == "drop":
        del stream
        gc.collect()
    elif how == "exhaust":
        list(stream)
    else:
        with pytest.raises(RuntimeError, match="consumer"):
            stream.throw(RuntimeError("consumer"))
    assert model.open_caches == []


def test_a_stream_that_was_never_begun_holds_nothing() -> None:
    pipeline = speaking()
    pipeline.stream("1")
    assert model_of(pipeline).caches == []


def test_two_streams_side_by_side_do_not_disturb_each_other() -> None:
    pipeline = hashing()
    alone = [pipeline.generate(prompt, max_new_tokens=20).text for prompt in ("ab", "c")]
    one, two = pipeline.stream("ab", max_new_tokens=20), pipeline.stream("c", max_new_tokens=20)
    texts = ["", ""]
    for first, second in zip(one, two, strict=False):
        texts[0] += first.text
        texts[1] += second.text
    texts[0] += "".join(chunk.text for chunk in one)
    texts[1] += "".join(chunk.text for chunk in two)
    assert [text[:8] for text in texts] == [text[:8] for text in alone]


# Cancelling and closing


def test_cancel_from_another_thread_returns_what_there_is() -> None:
    reached = threading.Event()
    model = FakeModel(258, script=speaks("x" * 200), on_step=lambda step: reached.set() if step == 20 else None)
    pipeline = TextGenerationPipeline.from_parts(model, ByteTokenizer())

    def cancel() -> None:
        assert reached.wait(10)
        pipeline.cancel()

    helper = threading.Thread(target=cancel)
    helper.start()
    # Slow enough that the cancel comes long before the end.
    result = pipeline.generate("1", on_chunk=lambda chunk: helper.join(10) if reached.is_set() else None)
    assert result.finish_reasons == ["cancelled"]
    assert len(result.token_ids[0]) == 20
    assert result.text == "x" * 20
    assert model.open_caches == []
    # The pipeline is as usable as before.
    assert len(pipeline.generate("1", max_new_tokens=5).text) == 5


def test_cancel_flushes_a_character_that_was_held_back() -> None:
    pipeline = speaking("🙂")
    chunks = []
    stream = pipeline.stream("1", stop="xyz")
    model = model_of(pipeline)
    model._on_step = lambda step: pipeline.cancel() if step == 2 else None
    chunks = list(stream)
    assert [(chunk.text, chunk.finish_reason, len(chunk.token_ids)) for chunk in chunks] == [("\ufffd", "cancelled", 2)]


def test_cancel_during_the_prefill() -> None:
    pipeline = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer(), prefill_chunk_size=4)
    model = model_of(pipeline)
    model._on_step = lambda step: pipeline.cancel() if step == 2 else None
    result = pipeline.generate("x" * 100, max_new_tokens=5)
    assert (result.finish_reasons, result.token_ids, result.text) == (["cancelled"], [[]], "")
    assert len(model.steps) == 2


def test_cancel_reaches_a_call_that_waits_for_its_turn() -> None:
    results: dict[str, Any] = {}
    pipeline = hashing()

    def generate(prompt: str) -> None:
        results[prompt] = pipeline.generate(prompt, max_new_tokens=5)

    second = threading.Thread(target=generate, args=("b",))

    def step(number: int) -> None:
        # Inside the first call's step: the second call begins and has to wait for the model.
        second.start()
        deadline = time.monotonic() + 10
        while len(pipeline._driver.running) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        pipeline.cancel()

    model_of(pipeline)._on_step = step
    generate("a")
    second.join(10)
    assert [results[prompt].finish_reasons for prompt in "ab"] == [["cancelled"], ["cancelled"]]
    assert [len(results[prompt].token_ids[0]) for prompt in "ab"] == [1, 0]
    assert len(model_of(pipeline).steps) == 1


def test_progress_of_a_long_prompt() -> None:
    seen: list[tuple[int, int]] = []
    pipeline = TextGenerationPipeline.from_parts(
        FakeModel(258), ByteTokenizer(), prefill_chunk_size=4, on_prefill=lambda done, total: seen.append((done, total))
    )
    pipeline.generate("x" * 10, max_new_tokens=5)
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_closed_pipeline() -> None:
    with speaking() as pipeline:
        stream = pipeline.stream("1")
        next(stream)
    model = model_of(pipeline)
    assert model.is_closed
    assert model.open_caches == []
    with pytest.raises(InvalidInputError, match="closed"):
        next(stream)
    with pytest.raises(InvalidInputError, match="closed"):
        pipeline.generate("1")
    pipeline.close()


@pytest.mark.parametrize(
    "capabilities", [ALL_CAPABILITIES, ALL_CAPABILITIES | {Capability.THREADS}], ids=["locked", "threads"]
)
def test_steps_of_two_threads_overlap_only_where_the_model_can(capabilities: frozenset[str]) -> None:
    inside, overlaps = [0], [0]
    meeting = threading.Barrier(2)

    def step(number: int) -> None:
        inside[0] += 1
        overlaps[0] = max(overlaps[0], inside[0])
        try:
            meeting.wait(0.5 if Capability.THREADS not in capabilities else 10)
        except threading.BrokenBarrierError:
            meeting.reset()
        inside[0] -= 1

    model = FakeModel(258, capabilities=capabilities, on_step=step)
    pipeline = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    threads = [threading.Thread(target=pipeline.generate, args=("a",), kwargs={"max_new_tokens": 1}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert overlaps[0] == (2 if Capability.THREADS in capabilities else 1)


# asyncio


def test_astream_gives_the_stream() -> None:
    pipeline = speaking()

    async def collect() -> list[Chunk]:
        return [chunk async for chunk in pipeline.astream("1")]

    result = pipeline.generate("1")
    check_stream(asyncio.run(collect()), result.texts, result.token_ids)


def test_astream_leaves_the_loop_free_and_runs_elsewhere() -> None:
    step_threads = set()
    blocked, ticks = threading.Event(), []

    def step(number: int) -> None:
        step_threads.add(threading.get_ident())
        # The step ends only when the event loop has gone on meanwhile.
        assert blocked.wait(10)

    pipeline = TextGenerationPipeline.from_parts(FakeModel(258, on_step=step), ByteTokenizer())

    async def tick() -> None:
        ticks.append(1)
        blocked.set()

    async def main() -> int:
        ticker = asyncio.create_task(tick())
        chunks = [chunk async for chunk in pipeline.astream("a", max_new_tokens=3)]
        await ticker
        return sum(len(chunk.token_ids) for chunk in chunks)

    assert asyncio.run(main()) == 3
    assert ticks == [1]
    assert step_threads.isdisjoint({threading.get_ident()})


def test_closing_an_async_stream_cancels_and_frees() -> None:
    pipeline = speaking("x" * 100)
    model = model_of(pipeline)

    async def main() -> None:
        stream: Any = pipeline.astream("1")
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(main())
    assert model.open_caches == []
    assert len(model.steps) < 5


def test_cancelling_the_task_cancels_the_generation_even_in_the_prefill() -> None:
    in_step, go_on = threading.Event(), threading.Event()

    def step(number: int) -> None:
        if number == 3:
            in_step.set()
            assert go_on.wait(10)

    model = FakeModel(258, on_step=step)
    pipeline = TextGenerationPipeline.from_parts(model, ByteTokenizer(), prefill_chunk_size=4)

    async def read() -> None:
        async for _ in pipeline.astream("x" * 100, max_new_tokens=5):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.to_thread(in_step.wait, 10)
        task.cancel()
        # The reader notices while the step still runs.
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(model.steps) == 3
    assert model.open_caches == []


def test_errors_reach_the_async_reader() -> None:
    def fail(step: int) -> None:
        raise ZeroDivisionError("in a step")

    pipeline = TextGenerationPipeline.from_parts(FakeModel(258, on_step=fail), ByteTokenizer())

    async def main() -> None:
        async for _ in pipeline.astream("1"):
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    assert model_of(pipeline).open_caches == []
    with pytest.raises(InvalidInputError):
        pipeline.astream("")
