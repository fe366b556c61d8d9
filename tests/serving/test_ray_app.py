# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The server on Ray Serve: three replicas, and one that is killed while all have work."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from benchmarks.load.reference import references
from benchmarks.load.workload import Question
from genai_iface import TextGenerationPipeline
from tests.marks import needs_ort
from tests.serving.ray_cluster import local_ray, needs_ray, processes

pytestmark = [
    pytest.mark.slow,
    needs_ray,
    needs_ort,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
REPLICA = "ServeReplica:genai:Replica"
TOKENS = 48
NAMES = ("Add", "Concat", "Gather", "MatMul", "Softmax", "Where", "Cast", "Slice", "Relu", "Mul", "Sub", "Shape")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with local_ray(4):
        from ray import serve

        from genai_iface.serving.ray_app import RayArguments, build

        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(RayArguments(name="m", min_replicas=3, slots=4)), name="genai", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """What the pipeline answers alone, where rounding decides no token: in a batch it is another one."""
    questions: list[Question] = [(f"The {name} operator", TOKENS, None) for name in NAMES]
    with TextGenerationPipeline(backend="ort") as pipe:
        found = {prompt: answer.text for (prompt, _, _), answer in references(pipe, questions).items()}
    assert len(found) >= 4
    return found


def asked(client: openai.OpenAI, prompt: str, *, stream: bool) -> tuple[str, str]:
    """("text", the answer), or ("error", its code) where the answer had begun."""
    common: dict[str, Any] = {"model": "m", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    if not stream:
        return "text", client.completions.create(**common).choices[0].text
    parts = []
    try:
        for chunk in client.completions.create(**common, stream=True):
            parts.append(chunk.choices[0].text)  # noqa: PERF401 - what came before an error counts
    except openai.APIError as error:
        assert parts, error
        return "error", str(error.code)
    return "text", "".join(parts)


def test_replicas_are_lost_and_come_and_go() -> None:
    """The first test, for it has a Ray of its own."""
    from benchmarks.ray_serving import main

    result = main(["--replicas", "3", "--clients", "4", "--before", "5", "--after", "5"])
    killed, scaled = result["kill"], result["scaling"]
    # Whole answers are asked again of another replica.
    assert set(killed["outcomes"]) == {"answered"}, killed
    assert min(killed["answers_before_and_after_the_kill"]) >= 12, killed
    assert killed["after"] > 0.5 * killed["before"] > 0, killed
    assert scaled["replicas"] == [1, 2, 1]
    assert set(scaled["outcomes"]) == {"answered"}, scaled


def test_the_surface_is_the_same(url: str, expected: dict[str, str]) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["m"]
        for stream in (False, True):
            assert asked(client, next(iter(expected)), stream=stream) == ("text", expected[next(iter(expected))])
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.completions.create(model="m", prompt="x", temperature=9)
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="x")
        messages: Any = [{"role": "user", "content": "Hi"}]
        answer = client.chat.completions.create(model="m", messages=messages, temperature=0)
        assert answer.choices[0].finish_reason == "stop"
        assert "ONNX" in (answer.choices[0].message.content or "")


def test_a_prompt_goes_where_its_beginning_is(url: str) -> None:
    """Not by chance: with three replicas nine further turns would be elsewhere in most cases."""
    start = "The operator Add takes two tensors and gives their sum. " * 12
    with openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client:
        cached = []
        for turn in range(10):
            answer = client.completions.create(model="m", prompt=f"{start}{turn}", max_tokens=2)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[0] < 100 < min(cached[1:])


def test_a_replica_that_is_killed_under_load_loses_nothing(url: str, expected: dict[str, str]) -> None:
    outcomes: list[tuple[str, str, str]] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        prompt = list(expected)[number % len(expected)]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, timeout=120) as client:
            outcome = asked(client, prompt, stream=number % 2 == 0)
        with lock:
            outcomes.append((prompt, *outcome))

    assert len(processes(REPLICA)) == 3
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(work, number) for number in range(120)]
        while len(outcomes) < 30:
            time.sleep(0.01)
        victim = processes(REPLICA)[0]
        os.kill(victim, signal.SIGKILL)
        for job in jobs:
            job.result(timeout=240)
    assert len(outcomes) == 120
    told = [(kind, text) for _, kind, text in outcomes if kind == "error"]
    assert set(told) <= {("error", "replica_lost")}
    # Only what one replica was streaming may have broken off.
    assert len(told) <= 8
    wrong = [(prompt, text) for prompt, kind, text in outcomes if kind == "text" and text != expected[prompt]]
    assert not wrong

    # As many as before, soon, and all of them answer.
    end = time.monotonic() + 90
    while len(alive := processes(REPLICA)) < 3 or victim in alive:
        assert time.monotonic() < end, alive
        time.sleep(0.2)
    outcomes.clear()
    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, number) for number in range(48)]:
            job.result(timeout=240)
    assert {kind for _, kind, _ in outcomes} == {"text"}
    assert all(text == expected[prompt] for prompt, _, text in outcomes)
