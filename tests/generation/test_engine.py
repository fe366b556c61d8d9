# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One protocol behind every way to generate, and one object that carries what the caller brings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import pytest

from genai_iface import GenerationConfig, GenerationHooks, TextGenerationPipeline
from genai_iface.generation import Engine, ModelGenerator, PromptLookup, Scheduler
from genai_iface.generation._request import GenerationRequest
from genai_iface.generation.beam.search import BeamSearch
from genai_iface.generation.runtime.loop import RuntimeLoop
from tests.fakes import ByteTokenizer, FakeModel, speaks
from tests.generation.runtime.fake_runtime import FakeGenerator

TEXT = "a text that says text and text"
TOKENS = [*TEXT.encode(), ByteTokenizer.eos_token_id]
PROMPT = [ord("1")]


def request(**fields: int) -> GenerationRequest:
    config = GenerationConfig(eos_token_id=ByteTokenizer.eos_token_id, **fields)  # type: ignore[arg-type]
    return GenerationRequest(prompts=[PROMPT], configs=[config], hooks=GenerationHooks(), capacity=64)


def plain(model: FakeModel, hooks: GenerationHooks | None = None) -> ModelGenerator:
    generator = ModelGenerator(
        model, request().configs, capacity=64, tokenizer=ByteTokenizer(), hooks=hooks, continues_text=False
    )
    generator.append_tokens(PROMPT)
    return generator


def runtime(model: FakeModel) -> RuntimeLoop:
    def source(prompt: list[int], config: GenerationConfig, capacity: int) -> tuple[FakeGenerator, int]:
        generator = FakeGenerator(model, config, capacity)
        generator.append_tokens(prompt)
        return generator, 0

    return RuntimeLoop(request(), ByteTokenizer(), source)


def scheduled(model: FakeModel) -> Engine:
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    return pipe.scheduler(slots=2, capacity=64, thread=False).submit(PROMPT)


WAYS: dict[str, Callable[[FakeModel], Engine]] = {
    "plain": plain,
    "speculative": lambda model: plain(model, GenerationHooks(speculation=PromptLookup(3))),
    "beam": lambda model: BeamSearch(model, request(num_beams=2), ByteTokenizer()),
    "scheduled": scheduled,
    "runtime": runtime,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_engine_steps_to_the_same_text(way: str) -> None:
    model = FakeModel(258, script=speaks(TEXT))
    engine = WAYS[way](model)
    assert not engine.has_ended
    assert model.steps == []
    chunks = []
    while not engine.has_ended:
        chunks += engine.step()
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert [token for chunk in chunks for token in chunk.token_ids] == TOKENS
    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    engine.close()
    engine.close()
    assert engine.metrics.num_prompt_tokens == 1
    assert engine.metrics.num_generated_tokens >= len(TOKENS)


@pytest.mark.parametrize("way", WAYS)
def test_every_engine_can_be_cancelled_before_and_between_its_steps(way: str) -> None:
    for num_steps in (0, 3):
        engine = WAYS[way](FakeModel(258, script=speaks(TEXT)))
        chunks = [chunk for _ in range(num_steps) for chunk in engine.step()]
        engine.cancel()
        while not engine.has_ended:
            chunks += engine.step()
        assert chunks[-1].finish_reason == "cancelled"
        assert len([token for chunk in chunks for token in chunk.token_ids]) <= num_steps + 1
        engine.close()


@pytest.mark.parametrize("way", ["plain", "speculative", "beam"])
def test_an_engine_allocates_with_its_first_step_and_close_frees_it(way: str) -> None:
    model = FakeModel(258, script=speaks(TEXT))
    engine = WAYS[way](model)
    assert model.caches == []
    engine.step()
    assert model.open_caches
    assert engine.metrics.cache_bytes > 0
    engine.close()
    assert model.open_caches == []
    assert engine.metrics.cache_bytes > 0


def test_max_time_begins_with_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    for way in (plain, runtime):
        engine = way(FakeModel(258, script=speaks(TEXT)))
        for sequence in engine._sequences:
            sequence.config = dataclasses.replace(sequence.config, max_time=5)
        now[0] += 1000
        assert [chunk.finish_reason for chunk in engine.step()] == [None]
        now[0] += 6
        while not engine.has_ended:
            chunks = engine.step()
        assert chunks[-1].finish_reason == "time"


def test_the_calls_name_what_the_hooks_hold() -> None:
    names = {field.name for field in dataclasses.fields(GenerationHooks)}

    def taken(call: Callable[..., object]) -> set[str]:
        return names & inspect.signature(call).parameters.keys()

    pipe = TextGenerationPipeline
    assert taken(pipe.generate) == names
    assert taken(pipe.stream) == taken(pipe.astream) == names - {"streamer", "on_chunk"}
    assert taken(Scheduler.submit) == names - {"streamer", "on_chunk"}
    # A conversation keeps a cache of its own.
    assert taken(pipe.chat) == names - {"streamer", "on_chunk", "prefix"}
