# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own client against the server: what the pipeline gives for a request alone, in the shapes it expects."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from genai_iface import TextGenerationPipeline
from genai_iface.serving import Server, ServerSettings
from tests.fakes import FakeModel
from tests.models import write_folder
from tests.serving.served import MESSAGES, client_of, gauge, saying, serving, slow_model, texts_of, until

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALLING = 'Wait. <tool_call>{"name": "get_weather", "arguments": {"city": "Bern"}}</tool_call>'


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TextGenerationPipeline]]:
    folder = write_folder(tmp_path_factory.mktemp("serving") / "model", max_positions=2048)
    settings = ServerSettings(port=0, model_name="tiny", aliases=("gpt-x",))
    with TextGenerationPipeline(folder, backend="ort") as pipeline, Server(pipeline, settings) as server:
        yield server, pipeline


@pytest.fixture
def client(opened: tuple[Server, TextGenerationPipeline]) -> Iterator[openai.OpenAI]:
    with client_of(opened[0]) as client:
        yield client


@pytest.fixture
def pipeline(opened: tuple[Server, TextGenerationPipeline]) -> TextGenerationPipeline:
    return opened[1]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "gpt-x"]
    assert client.models.retrieve("gpt-x").id == "gpt-x"


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.8, "seed": 5, "top_p": 0.9}, {"temperature": 0.8, "seed": 5, "top_p": 0.9}),
    (
        {"presence_penalty": 0.5, "frequency_penalty": 0.4, "logit_bias": {"65": 3.5}},
        {"presence_penalty": 0.5, "frequency_penalty": 0.4, "logit_bias": {65: 3.5}},
    ),
    (
        {"seed": 7, "extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 3}},
        {"seed": 7, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "min_new_tokens": 3},
    ),
]


@pytest.mark.parametrize(("sent", "overrides"), SETTINGS)
def test_a_completion_is_that_of_the_pipeline(
    client: openai.OpenAI, pipeline: TextGenerationPipeline, sent: dict[str, Any], overrides: dict[str, Any]
) -> None:
    alone = pipeline.generate("Hello", max_new_tokens=12, logprobs=2, **overrides)
    whole = client.completions.create(model="tiny", prompt="Hello", max_tokens=12, logprobs=2, **sent)
    assert whole.choices[0].text == alone.text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == alone.perf_metrics.num_generated_tokens
    assert whole.usage.prompt_tokens == 5
    assert alone.logprobs is not None
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.token_logprobs == pytest.approx(
        [one.logprob for one in alone.logprobs[0]], abs=1e-4
    )
    chunks = list(client.completions.create(model="tiny", prompt="Hello", max_tokens=12, stream=True, **sent))
    assert texts_of([chunk.choices[0].text for chunk in chunks]) == alone.text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == alone.finish_reasons[0]


def test_several_prompts_with_several_choices(client: openai.OpenAI, pipeline: TextGenerationPipeline) -> None:
    whole = client.completions.create(model="tiny", prompt=["One", "Two"], n=2, seed=3, max_tokens=6, echo=True)
    expected = [
        text
        for prompt in ("One", "Two")
        for text in pipeline.generate(prompt, num_return_sequences=2, seed=3, max_new_tokens=6, echo=True).texts
    ]
    assert [choice.text for choice in whole.choices] == expected
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 24)


def test_a_chat_is_that_of_the_pipeline(client: openai.OpenAI, pipeline: TextGenerationPipeline) -> None:
    alone = pipeline.generate(MESSAGES, max_new_tokens=10, logprobs=1)
    whole = client.chat.completions.create(
        model="gpt-x", messages=MESSAGES, max_completion_tokens=10, logprobs=True, top_logprobs=1
    )
    (choice,) = whole.choices
    assert choice.message.content == alone.text
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert alone.logprobs is not None
    content = choice.logprobs.content or []
    assert [one.logprob for one in content] == pytest.approx([one.logprob for one in alone.logprobs[0]], abs=1e-4)
    assert [len(one.top_logprobs) for one in content] == [1] * 10
    stream = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=10,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
    )
    chunks = list(stream)
    assert texts_of([chunk.choices[0].delta.content for chunk in chunks[:-1]]) == alone.text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 10
    streamed = [one for chunk in chunks[:-1] if (logs := chunk.choices[0].logprobs) for one in logs.content or []]
    assert len(streamed) == 10


def test_many_clients_at_once(opened: tuple[Server, TextGenerationPipeline]) -> None:
    """Each answer of an asynchronous client is that of its request alone."""
    server, pipeline = opened

    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:

            async def one(at: int) -> str | None:
                messages: Any = [{"role": "user", "content": f"Number {at}"}]
                if at % 2:
                    answer = await client.chat.completions.create(
                        model="tiny", messages=messages, max_tokens=8, seed=at
                    )
                    return answer.choices[0].message.content
                stream = await client.chat.completions.create(
                    model="tiny", messages=messages, max_tokens=8, seed=at, stream=True
                )
                return texts_of([chunk.choices[0].delta.content async for chunk in stream])

            return list(await asyncio.gather(*map(one, range(12))))

    texts = asyncio.run(run())
    for at, text in enumerate(texts):
        messages = [{"role": "user", "content": f"Number {at}"}]
        assert text == pipeline.generate(messages, max_new_tokens=8, seed=at).text


def test_structured_output(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "unit": {"enum": ["mm", "cm"]}},
        "required": ["ok", "unit"],
        "additionalProperties": False,
        # A random model would fill the output with blanks.
        "x-guidance": {"whitespace_flexible": False},
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=200, response_format=form)
    value = json.loads(answer.choices[0].message.content or "")
    assert isinstance(value["ok"], bool)
    assert value["unit"] in ("mm", "cm")
    for rule, pattern in (
        ({"guided_regex": "[ab]{3}"}, "[ab]{3}"),
        ({"structured_outputs": {"choice": ["a.b", "c|d"]}}, r"a\.b|c\|d"),
        ({"guided_grammar": 'start: "x" "y"'}, "xy"),
    ):
        text = client.completions.create(model="tiny", prompt="A", max_tokens=30, extra_body=rule).choices[0].text
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("name", ["get_weather", None])
def test_a_call_that_is_demanded_is_certain(client: openai.OpenAI, name: str | None) -> None:
    """The model is random: only the grammar makes its output a call."""
    choice: Any = "required" if name is None else {"type": "function", "function": {"name": name}}
    tools: Any = [WEATHER, NOW]
    answer = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        tools=tools,
        tool_choice=choice,
        max_tokens=300,
        seed=1,
        parallel_tool_calls=False,
    )
    (found,) = answer.choices
    assert found.finish_reason == "tool_calls"
    (call,) = found.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name in ("get_weather", "now") if name is None else name
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert arguments["city"] in ("Bern", "Rome")
    cut = client.chat.completions.create(model="tiny", messages=MESSAGES, tools=tools, tool_choice=choice, max_tokens=9)
    assert cut.choices[0].finish_reason == "length"
    assert (cut.choices[0].message.content or "").startswith("[")


def test_calls_are_read_from_what_the_model_says() -> None:
    tools: Any = [WEATHER]
    with saying(CALLING, tool_parser="hermes") as server, client_of(server) as client:
        whole = client.chat.completions.create(model="m", messages=MESSAGES, tools=tools)
        assert whole.choices[0].finish_reason == "tool_calls"
        assert whole.choices[0].message.content == "Wait. "
        (call,) = whole.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bern"})
        chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, tools=tools, stream=True))
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert texts_of([delta.content for delta in deltas]) == "Wait. "
        streamed = [one for delta in deltas for one in delta.tool_calls or []]
        assert [one.function.name for one in streamed if one.function] == ["get_weather"]
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        plain = client.chat.completions.create(model="m", messages=MESSAGES)
        assert plain.choices[0].message.content == CALLING
        none = client.chat.completions.create(model="m", messages=MESSAGES, tools=tools, tool_choice="none")
        assert none.choices[0].message.content == CALLING


def test_a_conversation_with_calls_goes_on() -> None:
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    with saying("ok") as server, client_of(server) as client:
        answer = client.chat.completions.create(model="m", messages=messages, stop=["k"])
        assert answer.choices[0].message.content == "o"
        assert answer.choices[0].finish_reason == "stop"


def test_responses(client: openai.OpenAI, pipeline: TextGenerationPipeline) -> None:
    alone = pipeline.generate(MESSAGES, max_new_tokens=8)
    whole = client.responses.create(model="tiny", input="Hi", max_output_tokens=8)
    assert whole.output_text == alone.text
    assert whole.status == "incomplete"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 8
    events = list(client.responses.create(model="tiny", input=MESSAGES, max_output_tokens=8, stream=True))  # type: ignore[call-overload]
    assert texts_of([event.delta for event in events if event.type == "response.output_text.delta"]) == alone.text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == alone.text


def test_responses_with_calls_and_reasoning() -> None:
    tools: Any = [{**WEATHER["function"], "type": "function"}]  # type: ignore[dict-item]
    said = f"<think>Hm.</think>{CALLING}"
    with saying(said, tool_parser="hermes") as server, client_of(server) as client:
        whole = client.responses.create(model="m", input="Hi", tools=tools)
        # A fake has no template that says that it thinks.
        assert [item.type for item in whole.output] == ["message", "function_call"]
        call = whole.output[-1]
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"city": "Bern"}
        history: Any = [
            {"role": "user", "content": "Hi"},
            *[item.model_dump(exclude_none=True) for item in whole.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        ]
        assert client.responses.create(model="m", input=history, tools=tools, max_output_tokens=9).output
        with client.responses.stream(model="m", input="Hi", tools=tools) as stream:
            names = [event.type for event in stream]
        assert names[-1] == "response.completed"
        assert "response.function_call_arguments.done" in names


def test_reasoning_shows_in_the_usage() -> None:
    said = "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!"
    # One token a byte: what ends the opening mark, the reasoning, and the closing mark but for what ends it.
    expected = 1 + len("Easy.") + len("<|end|")
    with saying(said, tool_parser="harmony") as server, client_of(server) as client:
        whole = client.chat.completions.create(model="m", messages=MESSAGES)
        assert whole.choices[0].message.content == "Hello!"
        streamed = list(
            client.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
        for usage in (whole.usage, streamed[-1].usage):
            assert usage is not None
            assert usage.completion_tokens_details is not None
            assert usage.completion_tokens_details.reasoning_tokens == expected
        response = client.responses.create(model="m", input="Hi")
        assert response.usage is not None
        assert response.usage.output_tokens_details.reasoning_tokens == expected


def test_the_urgent_is_served_first() -> None:
    with serving(slow_model(0.01), slots=1) as server, client_of(server) as client, ThreadPoolExecutor(4) as pool:
        order: list[str] = []

        def asked(name: str, priority: int) -> None:
            extra = {"ignore_eos": True, "priority": priority}
            client.completions.create(model="m", prompt=name, max_tokens=30, extra_body=extra)
            order.append(name)

        jobs = [pool.submit(asked, "first", 0)]
        until(lambda: gauge(server, "running_sequences") == 1)
        for count, (name, priority) in enumerate((("late", 1), ("urgent", -1)), start=1):
            jobs.append(pool.submit(asked, name, priority))
            until(lambda count=count: gauge(server, "waiting_sequences") == count)  # type: ignore[misc]
        for job in jobs:
            job.result()
        assert order == ["first", "urgent", "late"]


def test_a_prefix_shows_in_the_usage(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "system", "content": "Answer shortly. " * 10}, *MESSAGES]
    for expected in (False, True):
        usage = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert bool(usage.prompt_tokens_details.cached_tokens) == expected


def test_an_answer_without_a_limit_goes_on_to_the_end_of_its_slot() -> None:
    """Not to the 256 tokens that a call from Python is given."""
    with serving(FakeModel(258, context_length=400)) as server, client_of(server) as client:
        answer = client.chat.completions.create(model="m", messages=MESSAGES, extra_body={"ignore_eos": True})
    assert answer.usage is not None and answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 400
