# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: the tokens of each request alone, in fair turns, whatever happens to the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import (
    BackendError,
    CacheOverflowError,
    Capability,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
)
from genai_iface.generation import PromptLookup
from genai_iface.generation.scheduling.step_plan import plan_step
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel, speaks
from tests.marks import examples


def hashing(**arguments: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline.from_parts(FakeModel(258, **arguments), ByteTokenizer())


def model_of(pipeline: TextGenerationPipeline) -> FakeModel:
    model = pipeline.model
    assert isinstance(model, FakeModel)
    return model


# The same as alone


CONFIGS = st.builds(
    GenerationConfig,
    max_new_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    no_repeat_ngram_size=st.sampled_from([0, 2]),
    min_new_tokens=st.sampled_from([0, 3]),
    stop_strings=st.sampled_from([(), ("a",), ("e", "zz")]),
    stop_token_ids=st.sampled_from([(), (7, 8, 9)]),
    logprobs=st.sampled_from([None, 0, 2]),
    echo=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
PROMPTS = st.lists(st.integers(0, 255), min_size=1, max_size=40)


@settings(deadline=None, max_examples=examples(60, 20), suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(st.tuples(PROMPTS, CONFIGS, st.integers(0, 6)), min_size=1, max_size=7),
    slots=st.integers(1, 4),
    extra=st.integers(0, 40),
    gives_all=st.booleans(),
)
def test_results_are_those_of_each_request_alone(
    requests: list[tuple[list[int], GenerationConfig, int]], slots: int, extra: int, gives_all: bool
) -> None:
    """Requests join after any number of steps; tokens, texts, reasons and log-probabilities are equal."""
    lacks = frozenset() if gives_all else {Capability.LOGITS_ALL}
    with hashing(capabilities=ALL_CAPABILITIES - lacks) as pipeline:
        scheduler = pipeline.scheduler(slots=slots, token_budget=slots + extra, thread=False)
        given = []
        for prompt, config, steps in requests:
            given.append(scheduler.submit(prompt, config))
            for _ in range(steps):
                scheduler.step()
        for request, (prompt, config, _) in zip(given, requests, strict=True):
            batched, alone = request.result(), pipeline.generate(prompt, config)
            assert batched.token_ids == alone.token_ids
            assert batched.texts == alone.texts
            assert batched.finish_reasons == alone.finish_reasons
            assert repr(batched.logprobs) == repr(alone.logprobs)
            assert batched.seed == alone.seed
            assert "".join(chunk.text for chunk in request) == alone.text
            assert [token for chunk in request for token in chunk.token_ids] == alone.token_ids[0]
        assert scheduler.step() is False


def test_a_thread_of_its_own_gives_the_same() -> None:
    prompts = [f"prompt {index} " * (index + 1) for index in range(9)]
    with hashing() as pipeline, pipeline.scheduler(slots=3, token_budget=10) as scheduler:
        given = [scheduler.submit(prompt, max_new_tokens=5 + index) for index, prompt in enumerate(prompts)]
        for index, request in enumerate(given):
            assert request.result().token_ids == pipeline.generate(prompts[index], max_new_tokens=5 + index).token_ids


def test_requests_may_be_submitted_and_read_by_many_threads() -> None:
    for own_thread in (True, False):
        texts: dict[int, str] = {}
        with hashing() as pipeline, pipeline.scheduler(slots=2, token_budget=8, thread=own_thread) as scheduler:

            def ask(index: int) -> None:
                texts[index] = "".join(chunk.text for chunk in scheduler.submit(f"number {index}", max_new_tokens=8))  # noqa: B023

            threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert texts == {index: pipeline.generate(f"number {index}", max_new_tokens=8).text for index in range(6)}


@pytest.mark.parametrize("own_thread", [True, False])
def test_nobody_waits_for_ever_and_nothing_is_mixed_up(own_thread: bool) -> None:
    """Six threads submit, read and cancel, and the pipeline is closed under some of them."""
    for trial in range(6):
        pipeline = hashing()
        scheduler = pipeline.scheduler(slots=3, token_budget=7, thread=own_thread)
        expected = [pipeline.generate(f"p{at}" * 3, max_new_tokens=9, ignore_eos=True).token_ids[0] for at in range(4)]
        wrong: list[object] = []

        def serve(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(5):
                at = int(random.integers(4))
                try:
                    request = scheduler.submit(f"p{at}" * 3, max_new_tokens=9, ignore_eos=True)  # noqa: B023
                except InvalidInputError:
                    return
                if random.random() < 0.3:
                    request.cancel()
                tokens = request.result(timeout=60).token_ids[0]
                complete = request.finish_reason == "length"
                if tokens != expected[at][: 9 if complete else len(tokens)]:  # noqa: B023
                    wrong.append(tokens)  # noqa: B023

        threads = [threading.Thread(target=serve, args=(10 * trial + at,)) for at in range(6)]
        for thread in threads:
            thread.start()
        if trial % 2:
            pipeline.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not wrong
        pipeline.close()


def test_conversations_and_texts_are_prompts() -> None:
    with hashing() as pipeline, pipeline.scheduler() as scheduler:
        for prompt in ("ab", [97, 98], [{"role": "user", "content": "x"}]):
            request = scheduler.submit(prompt, max_new_tokens=3)
            assert request.result().texts == pipeline.generate(prompt, max_new_tokens=3).texts
        assert request.prompt_token_ids == list(b"<user>x\n<assistant>")


# Turns


def test_answers_go_on_while_a_long_prompt_is_read() -> None:
    with hashing() as pipeline:
        scheduler = pipeline.scheduler(slots=2, token_budget=8, thread=False)
        scheduler.submit("a", max_new_tokens=20, ignore_eos=True)
        scheduler.step()
        scheduler.submit("b" * 30, max_new_tokens=2)
        for _ in range(5):
            scheduler.step()
        # Seven tokens of the prompt beside one of the answer, until two are left.
        assert [counts for counts, _ in model_of(pipeline).steps[1:]] == [(1, 7)] * 4 + [(1, 2)]


def test_slots_go_to_those_that_came_first() -> None:
    with hashing() as pipeline:
        scheduler = pipeline.scheduler(slots=2, thread=False)
        given = [scheduler.submit("x", max_new_tokens=4) for _ in range(6)]
        ends: list[int] = []
        assert (scheduler.num_running, scheduler.num_waiting) == (0, 6)
        while scheduler.step():
            ends += [index for index, request in enumerate(given) if request.is_done and index not in ends]
            assert scheduler.num_running <= 2
        ends += [index for index, request in enumerate(given) if request.is_done and index not in ends]
        assert ends == sorted(ends) == list(range(6))


def test_a_slot_that_gets_free_is_taken_in_the_next_step() -> None:
    with hashing() as pipeline:
        scheduler = pipeline.scheduler(slots=2, thread=False)
        for tokens in (2, 5, 3):
            scheduler.submit("x", max_new_tokens=tokens)
        while scheduler.step():
            pass
        # The third request takes the first slot after two tokens, and all end together.
        assert [counts for counts, _ in model_of(pipeline).steps] == [(1, 1)] * 5


def test_rows_close_up_when_nobody_waits_for_a_slot() -> None:
    """An idle row between others costs as much as one that runs."""
    prompts, tokens = ["a", "bc", "def", "gh"], [2, 9, 4, 9]
    for capabilities in (ALL_CAPABILITIES, ALL_CAPABILITIES - {Capability.REORDER}):
        with hashing(capabilities=capabilities) as pipeline:
            scheduler = pipeline.scheduler(slots=4, thread=False)
            given = [
                scheduler.submit(prompt, max_new_tokens=limit, ignore_eos=True)
                for prompt, limit in zip(prompts, tokens, strict=True)
            ]
            results = [request.result().token_ids for request in given]
            active = [[row for row, count in enumerate(counts) if count] for counts, _ in model_of(pipeline).steps]
            assert results == [
                pipeline.generate(prompt, max_new_tokens=limit, ignore_eos=True).token_ids
                for prompt, limit in zip(prompts, tokens, strict=True)
            ]
        if Capability.REORDER in capabilities:
            assert active == [[0, 1, 2, 3]] * 2 + [[0, 1, 2]] * 2 + [[0, 1]] * 5
        else:
            assert active == [[0, 1, 2, 3]] * 2 + [[1, 2, 3]] * 2 + [[1, 3]] * 5


@given(
    pending=st.dictionaries(st.integers(0, 7), st.integers(1, 500), min_size=1),
    extra=st.integers(0, 100),
    watched=st.sets(st.integers(0, 7)),
    gives_all=st.booleans(),
)
def test_steps_keep_to_the_budget_and_always_get_on(
    pending: dict[int, int], extra: int, watched: set[int], gives_all: bool
) -> None:
    counts, takes_all = plan_step(8, pending, watched & pending.keys(), token_budget=8 + extra, gives_all=gives_all)
    assert 0 < sum(counts) <= 8 + extra
    assert all(count == 0 or count <= pending[slot] for slot, count in enumerate(counts) if slot in pending or count)
    assert all(counts[slot] == 1 for slot, tokens in pending.items() if tokens == 1)
    prompts = [slot for slot, tokens in pending.items() if tokens > 1]
    assert not prompts or counts[prompts[0]] > 0
    assert not takes_all or max(counts) <= 64


# Ends


def test_cancelling_gives_what_there_is() -> None:
    with hashing() as pipeline:
        scheduler = pipeline.scheduler(slots=1, thread=False)
        going, waiting = (scheduler.submit("a", max_new_tokens=50) for _ in range(2))
        for _ in range(3):
            scheduler.step()
        waiting.cancel()
        assert waiting.is_done
        assert waiting.result().token_ids == [[]]
        assert waiting.finish_reason == "cancelled"
        assert going.finish_reason is None
        going.cancel()
        result = going.result()
        assert result.finish_reasons == ["cancelled"]
        assert result.token_ids[0] == pipeline.generate("a", max_new_tokens=50).token_ids[0][:3]
        assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
        going.cancel()
        assert going.result().token_ids == result.token_ids


def test_cancelling_is_noticed_between_the_chunks_of_a_prompt() -> None:
    with hashing() as pipeline:
        scheduler = pipeline.scheduler(slots=1, token_budget=4, thread=False)
        request = scheduler.submit("a" * 100, max_new_tokens=5)
        scheduler.step()
        request.cancel()
        assert request.result().token_ids == [[]]
        assert len(model_of(pipeline).steps) == 1


def test_the_pipeline_cancels_and_closes_its_schedulers() -> None:
    # Long enough that no thread gets to the end before it is cancelled.
    pipeline = hashing(context_length=1_000_000)
    scheduler = pipeline.scheduler(slots=1)
    given = [scheduler.submit("a", max_new_tokens=900_000, ignore_eos=True) for _ in range(3)]
    pipeline.cancel()
    assert [request.result().finish_reasons[0] for request in given] == ["cancelled"] * 3
    last = scheduler.submit("b", max_new_tokens=900_000, ignore_eos=True)
    pipeline.close()
    assert last.result().finish_reasons == ["cancelled"]
    assert not model_of(pipeline).open_caches
    with pytest.raises(InvalidInputError, match="closed"):
        scheduler.submit("c")
    scheduler.close()


def test_max_time_counts_from_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with hashing() as pipeline:
        scheduler = pipeline.scheduler(slots=1, thread=False)
        going, waiting = (scheduler.submit("a", max_new_tokens=50, max_time=5) for _ in range(2))
        scheduler.step()
        now[0] += 6
        scheduler.step()
        assert (going.finish_reason, waiting.finish_reason) == ("time", "time")
        assert len(going.result().token_ids[0]) == 1
        assert waiting.result().token_ids == [[]]


def test_waiting_for_a_result_may_be_limited() -> None:
    release = threading.Event()

    def hold(step: int) -> None:
        release.wait(10)

    with hashing(on_step=hold) as pipeline, pipeline.scheduler() as scheduler:
        request = scheduler.submit("a", max_new_tokens=1)
        with pytest.raises(TimeoutError):
            request.result(timeout=0)
        release.set()
        assert request.result(timeout=60).finish_reasons == ["length"]
    with hashing() as pipeline, pipeline.scheduler(thread=False) as scheduler, pytest.raises(TimeoutError):
        scheduler.submit("a", max_new_tokens=1).result(timeout=0)


# Failures


def test_a_function_that_raises_ends_its_own_request_only() -> None:
    def breaks(tokens: np.ndarray, scores: np.ndarray) -> None:
        if len(tokens) == 4:
            raise ZeroDivisionError("mine")

    with hashing() as pipeline, pipeline.scheduler(slots=3) as scheduler:
        bad = scheduler.submit("a", max_new_tokens=9, logits_processors=[breaks])
        worse = scheduler.submit("b", max_new_tokens=9, stopping_criteria=[lambda tokens, text: 1 // 0 > 0])
        good = scheduler.submit("c", max_new_tokens=9)
        with pytest.raises(ZeroDivisionError, match="mine"):
            bad.result()
        with pytest.raises(ZeroDivisionError):
            list(worse)
        assert good.result().token_ids == pipeline.generate("c", max_new_tokens=9).token_ids
        read = []
        with pytest.raises(ZeroDivisionError, match="mine"):
            read.extend(token for chunk in bad for token in chunk.token_ids)
        assert bad.is_done
        assert bad.finish_reason is None


def test_an_error_of_the_model_ends_all_that_run_and_no_other() -> None:
    def fails(step: int) -> None:
        if step == 2:
            raise RuntimeError("out of luck")

    with hashing(on_step=fails) as pipeline, pipeline.scheduler(slots=2, thread=False) as scheduler:
        first, second, third = (scheduler.submit(text, max_new_tokens=5) for text in "abc")
        for request in (first, second):
            with pytest.raises(BackendError, match="RuntimeError: out of luck") as caught:
                request.result()
            assert isinstance(caught.value.__cause__, RuntimeError)
        assert third.result().token_ids == pipeline.generate("c", max_new_tokens=5).token_ids


def test_an_interrupted_step_leaves_nobody_waiting() -> None:
    def fails(step: int) -> None:
        raise KeyboardInterrupt

    with hashing(on_step=fails) as pipeline, pipeline.scheduler(thread=False) as scheduler:
        request = scheduler.submit("a", max_new_tokens=5)
        with pytest.raises(KeyboardInterrupt):
            scheduler.step()
        with pytest.raises(BackendError, match="KeyboardInterrupt"):
            request.result()


# What is refused


@pytest.mark.parametrize("capability", [Capability.BATCH, Capability.RAGGED, Capability.CHUNKED_PREFILL])
def test_models_without_ragged_steps_are_refused_by_name(capability: Capability) -> None:
    with pytest.raises(UnsupportedCapabilityError, match=str(capability)) as caught:
        hashing(capabilities=ALL_CAPABILITIES - {capability}).scheduler()
    assert caught.value.capability == capability


def test_circular_caches_are_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedCapabilityError, match="wraps around"):
        hashing(window=8).scheduler()


def test_a_request_that_never_fits_is_refused_with_the_arithmetic() -> None:
    with hashing() as pipeline, pipeline.scheduler(capacity=20, thread=False) as scheduler:
        with pytest.raises(InvalidInputError, match=r"3 tokens for its prompt and 18 new ones, 21 in all, .* holds 20"):
            scheduler.submit("abc", max_new_tokens=18)
        with pytest.raises(InvalidInputError, match="holds 20"):
            scheduler.submit("a" * 21)
        with pytest.raises(CacheOverflowError):
            scheduler.submit("a" * 257, max_new_tokens=1)
        assert len(scheduler.submit("abc", max_new_tokens=17, ignore_eos=True).result().token_ids[0]) == 17
        # Without a limit of its own it ends where the slot does.
        assert len(scheduler.submit("abc", ignore_eos=True).result().token_ids[0]) == 17


@pytest.mark.parametrize("arguments", [{"slots": 0}, {"token_budget": 7}, {"slots": 257}], ids=str)
def test_illegal_sizes(arguments: dict[str, int]) -> None:
    model = FakeModel(258)
    with pytest.raises(InvalidInputError, match=r"slots=0|token_budget=(7|256)"):
        TextGenerationPipeline.from_parts(model, ByteTokenizer()).scheduler(**arguments)
    assert not model.open_caches


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        (["a", "b"], {}, InvalidInputError),
        ("a", {"num_return_sequences": 2, "temperature": 1.0, "seed": 1}, InvalidInputError),
        ("a", {"num_beams": 2}, UnsupportedCapabilityError),
        ("a", {"prefix": "file"}, UnsupportedCapabilityError),
        ("a", {"speculation": PromptLookup()}, UnsupportedCapabilityError),
        ("a", {"no_such_field": 1}, InvalidInputError),
        ("", {}, InvalidInputError),
    ],
    ids=["prompts", "sequences", "beams", "prefix", "speculation", "unknown", "empty"],
)
def test_what_is_no_request(prompt: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with hashing() as pipeline, pipeline.scheduler(thread=False) as scheduler:
        with pytest.raises(error):
            scheduler.submit(prompt, **options)
        assert scheduler.num_waiting == 0


# Reading


def test_chunks_come_while_it_runs_and_can_be_read_twice() -> None:
    with TextGenerationPipeline.from_parts(FakeModel(258, script=speaks("héllo")), ByteTokenizer()) as pipeline:
        scheduler = pipeline.scheduler(thread=False)
        request = scheduler.submit("1", max_new_tokens=20)
        reader = iter(request)
        assert next(reader).text == "h"
        assert not request.is_done
        assert [chunk.text for chunk in reader] == ["é", "l", "l", "o", ""]
        assert "".join(chunk.text for chunk in request) == "héllo"
        assert request.finish_reason == "stop"
        metrics = request.result().perf_metrics
        assert (metrics.num_prompt_tokens, metrics.num_generated_tokens) == (1, 7)


def test_reading_with_asyncio() -> None:
    async def read(scheduler: Any, prompt: str) -> str:
        return "".join([chunk.text async for chunk in scheduler.submit(prompt, max_new_tokens=6)])

    async def main(scheduler: Any, prompts: Sequence[str]) -> list[str]:
        return await asyncio.gather(*(read(scheduler, prompt) for prompt in prompts))

    with hashing() as pipeline, pipeline.scheduler(slots=2) as scheduler:
        texts = asyncio.run(main(scheduler, ["a", "bc", "def"]))
        assert texts == [pipeline.generate(prompt, max_new_tokens=6).text for prompt in ("a", "bc", "def")]
