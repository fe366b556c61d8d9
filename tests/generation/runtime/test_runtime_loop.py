# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A pipeline over a runtime that owns its loop: its tokens, our text, and what is refused by name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import (
    Backend,
    BackendError,
    CacheOverflowError,
    Capability,
    GenerationConfig,
    Generator,
    InvalidInputError,
    SupportsGenerator,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
)
from genai_iface.conformance import all_checks
from genai_iface.conformance._context import Context
from genai_iface.conformance._runner import run_check
from genai_iface.generation import GenerationHooks, PromptLookup
from tests.conformance.mutants_runtime import PlainRuntime
from tests.conformance.plain import PlainAdapter
from tests.fakes import FakeModel, speaks
from tests.generation.runtime.fake_runtime import EOS, VOCAB, FakeGenerator, FakeRuntime
from tests.model_files import write_tokenizer_files

TEXT = "Grüße, 世界! 🙂 done."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without a graph: only the runtime knows the form of its model."""
    write_tokenizer_files(tmp_path)
    return tmp_path


def piped(folder: Path, text: str = TEXT, **arguments: Any) -> tuple[TextGenerationPipeline, FakeRuntime]:
    runtime = FakeRuntime(speaks(text, end=EOS), **arguments)
    return TextGenerationPipeline(folder, backend=runtime), runtime


def hashing(folder: Path) -> tuple[TextGenerationPipeline, FakeRuntime]:
    runtime = FakeRuntime()
    return TextGenerationPipeline(folder, backend=runtime), runtime


def test_the_fake_satisfies_the_protocols() -> None:
    runtime = FakeRuntime()
    backend: Backend = runtime
    supports: SupportsGenerator = runtime
    generator: Generator = FakeGenerator(FakeModel(VOCAB), GenerationConfig(), None)
    assert isinstance(backend, SupportsGenerator)
    assert supports is backend
    assert generator.token_count() == 0


def test_text_comes_from_the_runtimes_tokens(folder: Path) -> None:
    pipe, runtime = piped(folder)
    result = pipe.generate("1")
    assert result.text == TEXT
    assert result.token_ids == [[*TEXT.encode(), EOS]]
    assert result.finish_reasons == ["stop"]
    assert result.perf_metrics.num_prompt_tokens == 1
    assert result.perf_metrics.num_generated_tokens == len(TEXT.encode()) + 1
    assert runtime.asked == [(folder, None, None)]


def test_several_prompts_get_a_generator_each_and_are_as_if_alone(folder: Path) -> None:
    pipe, runtime = hashing(folder)
    prompts = ["a", "a longer prompt", "bc"]
    together = pipe.generate(prompts, max_new_tokens=7)
    assert len(runtime.made) == 3
    assert together.texts == [pipe.generate(prompt, max_new_tokens=7).text for prompt in prompts]
    assert [generator.capacity for generator in runtime.made[:3]] == [15 + 7] * 3


def test_sequences_of_one_prompt_differ_and_a_seed_repeats_them(folder: Path) -> None:
    pipe, _ = hashing(folder)
    asked: dict[str, Any] = {"num_return_sequences": 3, "temperature": 1.5, "max_new_tokens": 6}
    first = pipe.generate("a", **asked)
    assert len(set(first.texts)) == 3
    assert pipe.generate("a", **asked, seed=first.seed).texts == first.texts


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"stop": "世"}, "Grüße, ", "stop"),
        ({"stop": ["界!", "🙂"], "include_stop_str_in_output": True}, "Grüße, 世界!", "stop"),
        ({"stop_token_ids": [ord("r")]}, "G", "stop"),
        ({"max_new_tokens": 2}, "Gr", "length"),
        ({"max_length": 4}, "Gr\ufffd", "length"),
        ({"max_new_tokens": 0}, "", "length"),
        ({"max_time": 1e-9}, "", "time"),
        ({"max_time": 60.0}, TEXT, "stop"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_ends_a_sequence_is_watched_here(folder: Path, fields: dict[str, Any], text: str, reason: str) -> None:
    pipe, _ = piped(folder)
    result = pipe.generate("1", **fields)
    assert (result.text, result.finish_reasons) == (text, [reason])
    chunks = list(pipe.stream("1", **fields))
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [reason]


def test_a_stream_comes_token_by_token_and_a_closed_one_lets_its_generator_go(folder: Path) -> None:
    pipe, runtime = piped(folder)
    stream: Any = pipe.stream("1")
    assert runtime.made == []
    assert [next(stream).text for _ in range(3)] == ["G", "r", "ü"]
    assert len(runtime.made[0].tokens) == 1 + 4
    stream.close()
    assert pipe.generate("1").text == TEXT

    async def main() -> str:
        return "".join([chunk.text async for chunk in pipe.astream("1")])

    assert asyncio.run(main()) == TEXT


def test_cancel_keeps_what_there_is_and_reaches_the_generator(folder: Path) -> None:
    pipe, runtime = piped(folder)
    seen: list[str] = []

    def look(chunk: Any) -> None:
        seen.append(chunk.text)
        if len(seen) == 2:
            pipe.cancel()

    result = pipe.generate("1", on_chunk=look)
    assert (result.text, result.finish_reasons) == ("Gr", ["cancelled"])
    assert runtime.made[0].reason == "cancelled"
    streamed = pipe.generate("1", streamer=lambda text: text == "r")
    assert (streamed.text, streamed.finish_reasons) == ("Gr", ["cancelled"])


def test_a_callers_criteria_and_echo(folder: Path) -> None:
    pipe, _ = piped(folder)
    result = pipe.generate("1", stopping_criteria=[lambda tokens, text: text.endswith("ße")])
    assert (result.text, result.finish_reasons) == ("Grüße", ["stop"])
    assert pipe.generate("1", echo=True, max_new_tokens=1).text == "1G"


def test_logprobs_are_those_of_the_logits(folder: Path) -> None:
    pipe, runtime = hashing(folder)
    result = pipe.generate("a", max_new_tokens=3, logprobs=1)
    assert result.logprobs is not None
    entry = result.logprobs[0][0]
    logits = runtime.model.logits_after([ord("a")]).astype(np.float64)
    assert entry.token_id == result.token_ids[0][0] == logits.argmax()
    assert entry.logprob == pytest.approx(logits.max() - np.log(np.exp(logits).sum()))


@pytest.mark.parametrize(
    ("name", "arguments", "capability"),
    [
        ("logits_processors", {"logits_processors": [lambda tokens, scores: None]}, ""),
        ("constraint", {"constraint": object()}, ""),
        ("prefix", {"prefix": "file"}, "save"),
        ("speculation", {"speculation": PromptLookup()}, "logits_all"),
        ("num_beams", {"num_beams": 2}, "reorder"),
        ("json_schema", {"json_schema": {}}, ""),
        ("regex", {"regex": "a"}, ""),
        ("lark_grammar", {"lark_grammar": 'start: "a"'}, ""),
        ("echo with logprobs", {"echo": True, "logprobs": 0}, "logits_all"),
    ],
)
def test_what_needs_a_loop_of_our_own_is_refused_by_name(
    folder: Path, name: str, arguments: dict[str, Any], capability: str
) -> None:
    pipe, runtime = piped(folder)
    for call in (pipe.generate, pipe.stream, pipe.astream):
        with pytest.raises(UnsupportedCapabilityError, match=f"^{name} needs a loop") as caught:
            call("1", **arguments)
        assert caught.value.capability == capability
        assert caught.value.remedy
    assert runtime.made == []


def test_calls_that_need_a_model_are_refused(folder: Path, tmp_path: Path) -> None:
    pipe, _ = piped(folder)
    for name, call in (
        ("model", lambda: pipe.model),
        ("scheduler", pipe.scheduler),
        ("score", lambda: pipe.score("a", "b")),
        ("perplexity", lambda: pipe.perplexity("ab")),
        ("save_prefix", lambda: pipe.save_prefix("a", tmp_path / "x")),
    ):
        with pytest.raises(UnsupportedCapabilityError, match=f"^{name}"):
            call()


def test_a_field_that_the_runtime_does_not_know_is_its_own_refusal(folder: Path) -> None:
    pipe, _ = piped(folder)
    with pytest.raises(UnsupportedCapabilityError, match="repetition_penalty is not supported"):
        pipe.generate("1", repetition_penalty=1.5)
    assert pipe.generate("1", logit_bias={ord("x"): 1000.0}, max_new_tokens=2).text == "xx"


def test_a_prompt_beyond_the_runtimes_context_is_its_own_refusal(folder: Path) -> None:
    pipe, _ = piped(folder)
    with pytest.raises(CacheOverflowError):
        pipe.generate("x" * 1001)


def test_a_backend_that_declares_generators_and_has_none(folder: Path) -> None:
    class Liar:
        info, devices, load = FakeRuntime.info, FakeRuntime.devices, FakeRuntime.load
        capabilities = frozenset({Capability.GENERATOR})

    with pytest.raises(BackendError, match="has no generator"):
        TextGenerationPipeline(folder, backend=Liar())  # type: ignore[arg-type]


def test_a_conversation_keeps_its_generator(folder: Path) -> None:
    pipe, runtime = piped(folder, "yes")
    with pipe.chat(system="be brief") as session:
        assert session.send("1") == "yes"
        (generator,) = runtime.made
        before = generator.num_run
        assert session.send("2") == "yes"
        assert runtime.made == [generator]
        # Only what the first turn had not run: its answer was generated, its end is not part of the next prompt.
        assert session.perf_metrics.num_reused_tokens > before
        assert generator.num_run == session.perf_metrics.num_prompt_tokens - len("yes")
        assert [message["content"] for message in session.messages] == ["be brief", "1", "yes", "2", "yes"]
        # Another configuration needs another generator.
        session.send("3", temperature=0.5, seed=1)
        assert len(runtime.made) == 2
        with pytest.raises(InvalidInputError, match="one answer at a time"):
            session.send("4", num_return_sequences=2, temperature=1.0)
        with pytest.raises(UnsupportedCapabilityError, match="speculation"):
            session.send("4", hooks=GenerationHooks(speculation=PromptLookup()))


def test_a_conversation_starts_anew_after_a_cancel_or_where_nothing_can_be_rewound(folder: Path) -> None:
    pipe, runtime = piped(folder, "a long answer")
    session = pipe.chat()
    stream = session.stream("1")
    next(stream)
    pipe.cancel()
    list(stream)
    assert session.messages[-1]["content"] == "a"
    assert session.regenerate() == "a long answer"
    assert len(runtime.made) == 2
    runtime.made[-1].can_rewind = False
    assert session.send("2") == "a long answer"
    assert len(runtime.made) == 3


def test_a_closed_pipeline(folder: Path) -> None:
    pipe, _ = piped(folder)
    stream = pipe.stream("1")
    next(stream)
    pipe.close()
    with pytest.raises(InvalidInputError, match="closed"):
        next(stream)


@pytest.mark.parametrize(
    "item", [item for item in all_checks() if item.id.startswith("L4.runtime")], ids=lambda i: i.id
)
def test_a_runtime_without_a_bug_passes_the_kits_checks(item: Any) -> None:
    context = Context(PlainAdapter(PlainRuntime()))
    try:
        assert run_check(item, context).status == "passed"
    finally:
        context.close()
