# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Conversations: what is reused, what an answer depends on, what an interruption leaves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai_iface import CacheOverflowError, Capability, InvalidInputError, TextGenerationPipeline
from genai_iface.generation import DraftModel, GenerationHooks
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel, speaks
from tests.marks import examples


def pipeline_of(tokenizer: Any = None, **arguments: Any) -> TextGenerationPipeline:
    model = FakeModel(258, **{"context_length": 2048, **arguments})
    return TextGenerationPipeline.from_parts(model, tokenizer or ByteTokenizer(), prefill_chunk_size=16)


def model_of(pipeline: TextGenerationPipeline) -> FakeModel:
    model = pipeline.model
    assert isinstance(model, FakeModel)
    return model


def test_a_turn_runs_only_what_is_new() -> None:
    pipe = pipeline_of(script=speaks("yes"))
    with pipe.chat(system="be brief") as session:
        assert session.send("1") == "yes"
        assert session.perf_metrics.num_reused_tokens == 0
        model_of(pipe).steps.clear()
        assert session.send("2") == "yes"
        head = len(b"<system>be brief\n<user>1\n<assistant>")
        # The answer's own tokens are reused too; its stop token is not part of the next prompt.
        assert session.perf_metrics.num_reused_tokens == head + len("yes")
        ran = sum(counts[0] for counts, _ in model_of(pipe).steps)
        assert ran == len(b"\n<user>2\n<assistant>") + len("yes")
        assert session.perf_metrics.num_prompt_tokens == head + len("yes") + len(b"\n<user>2\n<assistant>")
        assert [message["content"] for message in session.messages] == ["be brief", "1", "yes", "2", "yes"]
        assert len(model_of(pipe).open_caches) == 1
    assert model_of(pipe).open_caches == []


@settings(deadline=None, max_examples=examples(50, 15))
@given(data=st.data())
def test_any_conversation_gives_what_its_messages_give_afresh(data: st.DataObject) -> None:
    """Send, answer again, edit, change the system message, reset: the cache never shows."""
    without = data.draw(st.sampled_from([set(), {Capability.CHUNKED_PREFILL}, {Capability.RAGGED}]))
    window = data.draw(st.sampled_from([None, 7]))
    pipe = pipeline_of(capabilities=ALL_CAPABILITIES - without, window=window)
    fields = {"max_new_tokens": 6, "temperature": 1.5}
    texts = st.text("abc", min_size=1, max_size=4)
    session = pipe.chat(system=data.draw(st.sampled_from([None, "s"])), **fields)
    for seed in range(data.draw(st.integers(1, 6))):
        users = [at for at, message in enumerate(session.messages) if message["role"] == "user"]
        shift = len(session.messages) and session.messages[0]["role"] == "system"
        action = data.draw(st.sampled_from(["send", "send", "again", "edit", "system", "reset"]))
        if action == "again" and users:
            answer = session.regenerate(seed=seed)
        elif action == "edit" and users:
            answer = session.edit(data.draw(st.sampled_from(users)) - shift, data.draw(texts), seed=seed)
        else:
            if action == "system":
                session.system = data.draw(st.sampled_from([None, "t", "other"]))
            if action == "reset":
                session.reset()
            answer = session.send(data.draw(texts), seed=seed)
        afresh = pipeline_of(window=window).generate(session.messages[:-1], seed=seed, **fields)
        assert session.messages[-1] == {"role": "assistant", "content": answer}
        assert answer == afresh.text


def test_regenerate_and_edit_rewind() -> None:
    pipe = pipeline_of()
    session = pipe.chat(max_new_tokens=5)
    session.send("hello", temperature=2.0, seed=1)
    before = len(model_of(pipe).caches)
    session.regenerate(temperature=2.0, seed=2)
    assert session.perf_metrics.num_reused_tokens == len(b"<user>hello\n<assistant>") - 1
    session.edit(0, "help")
    assert session.perf_metrics.num_reused_tokens == len(b"<user>hel")
    assert len(session.messages) == 2
    assert len(model_of(pipe).caches) == before


def test_closing_a_stream_keeps_what_there_is() -> None:
    pipe = pipeline_of(script=speaks("a long answer"))
    session = pipe.chat()
    stream: Any = session.stream("1")
    assert [next(stream).text for _ in range(3)] == ["a", " ", "l"]
    stream.close()
    assert session.messages[-1] == {"role": "assistant", "content": "a l"}
    assert session.regenerate() == "a long answer"
    # The prompt's second chunk gives the first token.
    last = len(model_of(pipe).steps) + 2
    model_of(pipe)._on_step = lambda step: pipe.cancel() if step == last else None
    assert session.send("2") == "a"
    assert session.messages[-1]["content"] == "a"


def test_a_failure_leaves_the_conversation_as_it_was() -> None:
    pipe = pipeline_of(context_length=60, script=speaks("ok"))
    session = pipe.chat()
    session.send("1")
    before = session.messages
    with pytest.raises(CacheOverflowError):
        session.send("x" * 60)
    assert session.messages == before

    def fail(step: int) -> None:
        raise ZeroDivisionError("in a step")

    model_of(pipe)._on_step = fail
    with pytest.raises(ZeroDivisionError):
        session.send("2")
    assert session.messages == before
    model_of(pipe)._on_step = None
    session.reset()
    assert session.send("2") == "ok"


def test_tools_messages_and_template_arguments_reach_the_template() -> None:
    seen: list[dict[str, Any]] = []

    class Recorder(ByteTokenizer):
        def apply_chat_template(self, messages: Any, /, **arguments: Any) -> str:
            seen.append({"messages": list(messages), **arguments})
            return super().apply_chat_template(messages)

    tools = [{"type": "function", "function": {"name": "f"}}]
    session = pipeline_of(Recorder(), script=speaks("ok")).chat(tools=tools, template_kwargs={"enable_thinking": False})
    session.send({"role": "tool", "content": "5"})
    assert seen == [{"messages": [{"role": "tool", "content": "5"}], "tools": tools, "enable_thinking": False}]


def test_what_is_refused() -> None:
    pipe = pipeline_of()
    session = pipe.chat(max_new_tokens=2)
    with pytest.raises(InvalidInputError, match="no message to answer"):
        session.regenerate()
    with pytest.raises(InvalidInputError, match="no message 0"):
        session.edit(0, "x")
    session.send("a")
    with pytest.raises(InvalidInputError, match="is an answer"):
        session.edit(1, "x")
    with pytest.raises(InvalidInputError, match="one answer at a time"):
        session.send("a", num_return_sequences=2, temperature=1.0)
    with pytest.raises(InvalidInputError, match="context length"):
        pipeline_of(context_length=None).chat()
    session.close()
    with pytest.raises(InvalidInputError, match="closed"):
        session.send("a")


def test_closing_the_pipeline_frees_conversations() -> None:
    pipe = pipeline_of(script=speaks("ok"))
    session = pipe.chat()
    session.send("1")
    pipe.close()
    assert model_of(pipe).open_caches == []
    with pytest.raises(InvalidInputError, match="closed"):
        session.send("2")


def test_an_answer_that_was_overtaken_is_refused() -> None:
    with pipeline_of(script=speaks("yes")).chat() as session:
        early = session.stream("one")
        session.send("two")
        before = session.messages
        with pytest.raises(InvalidInputError, match="Another answer"):
            list(early)
        assert session.messages == before


def test_an_answer_that_fails_is_not_kept() -> None:
    def fail(tokens: object, text: str) -> bool:
        raise RuntimeError("mine")

    with pipeline_of(script=speaks("yes")).chat() as session:
        session.send("one")
        before = session.messages
        with pytest.raises(RuntimeError, match="mine"):
            session.send("two", hooks=GenerationHooks(stopping_criteria=[fail]))
        assert session.messages == before
        assert session.send("two")


def test_a_turn_frees_its_draft_cache_and_a_refused_one_leaves_the_conversation() -> None:
    draft, other = FakeModel(258, script=speaks("yes")), FakeModel(300)
    with pipeline_of(script=speaks("yes")).chat() as session:
        assert session.send("1", hooks=GenerationHooks(speculation=DraftModel(draft))) == "yes"
        assert draft.open_caches == []
        with pytest.raises(InvalidInputError):
            session.send("2", hooks=GenerationHooks(speculation=DraftModel(other)))
        assert other.open_caches == []
        assert session.send("2") == "yes"
