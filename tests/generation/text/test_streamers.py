# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Streamers, and readers that are slow or leave early: nothing is lost, nothing piles up, nothing runs on."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from genai_iface import GenerationResult, InvalidInputError, TextGenerationPipeline
from genai_iface.generation import PromptLookup
from tests.fakes import ByteTokenizer, FakeModel, speaks

TEXT = "Grüße 🙂, drei Wörter"


class Recorder:
    def __init__(self, answer: object = None, *, on: int = 0) -> None:
        self.pieces: list[str] = []
        self.ends = 0
        self.answer, self.on = answer, on

    def write(self, text: str) -> object:
        assert not self.ends
        self.pieces.append(text)
        return self.answer if len(self.pieces) > self.on else None

    def end(self) -> None:
        self.ends += 1


def speaking(text: str = TEXT, **options: Any) -> tuple[TextGenerationPipeline, FakeModel]:
    model = FakeModel(258, script=speaks(text), **options)
    return TextGenerationPipeline.from_parts(model, ByteTokenizer()), model


@pytest.mark.parametrize("options", [{}, {"speculation": PromptLookup()}, {"num_beams": 2}], ids=lambda o: str([*o]))
def test_a_streamer_is_told_the_text_and_then_the_end(options: dict[str, Any]) -> None:
    pipeline, _ = speaking()
    streamer = Recorder()
    result = pipeline.generate("1", streamer=streamer, **options)
    assert "".join(streamer.pieces) == result.text
    assert all(streamer.pieces)
    assert "\ufffd" not in "".join(streamer.pieces)
    assert streamer.ends == 1


def test_a_plain_function_of_the_text_will_do() -> None:
    pipeline, _ = speaking()
    pieces: list[str] = []
    assert pipeline.generate("1", streamer=pieces.append).text == TEXT == "".join(pieces)


def test_it_gets_the_pieces_while_they_come() -> None:
    pipeline, model = speaking()
    steps: list[int] = []
    pipeline.generate("1", streamer=lambda text: steps.append(len(model.steps)))
    assert steps == sorted(set(steps))
    assert len(steps) == len(TEXT)


def test_a_character_and_a_beginning_of_a_stop_string_that_were_held_back_come_before_the_end() -> None:
    pipeline, _ = speaking("ab🙂")
    streamer = Recorder()
    result = pipeline.generate("1", streamer=streamer, stop_strings="b🙂!", max_new_tokens=4)
    assert streamer.pieces == ["a", "b\ufffd"]
    assert result.text == "ab\ufffd"
    assert streamer.ends == 1


def test_true_ends_the_generation_with_what_there_is() -> None:
    pipeline, model = speaking()
    streamer = Recorder(True, on=2)
    result = pipeline.generate("1", streamer=streamer)
    assert (result.text, result.finish_reasons) == ("Grü", ["cancelled"])
    assert streamer.ends == 1
    assert len(model.steps) == 4
    # A count of characters, as files return it, is not True.
    assert pipeline.generate("1", streamer=Recorder(1)).text == TEXT


def test_the_end_is_told_also_when_it_fails() -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise ZeroDivisionError

    pipeline, model = speaking(on_step=fail)
    streamer = Recorder()
    with pytest.raises(ZeroDivisionError):
        pipeline.generate("1", streamer=streamer)
    assert (streamer.pieces, streamer.ends) == (["G", "r"], 1)
    assert model.open_caches == []


def test_an_error_of_the_streamer_reaches_the_caller_and_frees_the_cache() -> None:
    pipeline, model = speaking()

    class Full(Recorder):
        def write(self, text: str) -> object:
            raise OSError("disk full")

    streamer = Full()
    with pytest.raises(OSError, match="disk full"):
        pipeline.generate("1", streamer=streamer)
    assert streamer.ends == 1
    assert model.open_caches == []


def test_several_sequences_are_refused() -> None:
    pipeline, model = speaking()
    with pytest.raises(InvalidInputError, match="takes one sequence, the call has 2"):
        pipeline.generate(["1", "2"], streamer=Recorder())
    with pytest.raises(InvalidInputError, match="int is not a streamer"):
        pipeline.generate("1", streamer=5)  # type: ignore[arg-type]
    assert model.steps == []


def test_another_thread_can_read_what_a_streamer_puts_into_a_queue() -> None:
    pipeline, _ = speaking()
    arrived, heard = threading.Semaphore(0), []

    class Hand:
        def write(self, text: str) -> None:
            heard.append(text)
            arrived.release()

        def end(self) -> None:
            heard.append(None)
            arrived.release()

    results: list[GenerationResult] = []
    worker = threading.Thread(target=lambda: results.append(pipeline.generate("1", streamer=Hand())))
    worker.start()
    while not heard or heard[-1] is not None:
        assert arrived.acquire(timeout=20)
    worker.join(20)
    assert "".join(filter(None, heard)) == TEXT == results[0].text


# Readers of iterators


def test_no_step_runs_before_its_reader_asks_for_it() -> None:
    pipeline, model = speaking("x" * 50)
    seen = []
    for chunk in pipeline.stream("1"):
        seen.append(chunk.text)
        # The chunks so far, and nothing ahead of them.
        assert len(model.steps) == len("".join(seen)) + (chunk.finish_reason is not None)
    assert "".join(seen) == "x" * 50


def test_a_slow_asynchronous_reader_holds_the_generation_back_and_loses_nothing() -> None:
    pipeline, model = speaking("x" * 30)

    async def main() -> str:
        text = ""
        async for chunk in pipeline.astream("1"):
            text += chunk.text
            # The loop goes round many times; a worker that runs ahead would show.
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(model.steps) == len(text) + (chunk.finish_reason is not None)
        return text

    assert asyncio.run(main()) == "x" * 30


def test_leaving_an_asynchronous_loop_ends_the_generation_and_its_thread() -> None:
    pipeline, model = speaking("x" * 100)
    threads = set(threading.enumerate())

    async def main() -> None:
        async for chunk in pipeline.astream("1"):
            if chunk.text:
                break
        # No aclose(): dropping the iterator is enough.
        for _ in range(1000):
            if not model.open_caches:
                break
            await asyncio.sleep(0.005)

    asyncio.run(main())
    assert model.open_caches == []
    assert len(model.steps) < 5
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
        assert not thread.is_alive()


def test_an_asynchronous_stream_that_nobody_reads_does_nothing() -> None:
    pipeline, model = speaking()

    async def main() -> None:
        pipeline.astream("1")

    asyncio.run(main())
    gc.collect()
    assert (model.steps, model.caches) == ([], [])
