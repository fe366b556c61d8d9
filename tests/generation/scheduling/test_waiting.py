# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Who gets the next slot: by priority, and nobody waits for ever."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from genai_iface import TextGenerationPipeline
from genai_iface.generation.scheduling.request import ScheduledRequest
from genai_iface.generation.scheduling.waiting import MOST_OVERTAKEN, WaitingRequests
from tests.fakes import ByteTokenizer, FakeModel


class Asked:
    def __init__(self, number: int, priority: int) -> None:
        self.number = number
        self.priority = priority


@given(st.lists(st.one_of(st.integers(-2, 2), st.none()), max_size=300))
def test_the_most_urgent_is_next_and_nobody_is_passed_without_end(events: list[int | None]) -> None:
    """A number is a request of that priority that comes; None is a slot that gets free."""
    waiting = WaitingRequests()
    here: list[Asked] = []
    passed: dict[Asked, int] = {}
    for number, priority in enumerate(events):
        if priority is not None:
            here.append(Asked(number, priority))
            waiting.add(cast("ScheduledRequest", here[-1]))
            continue
        if not here:
            continue
        taken = cast("Any", waiting.take())
        earlier = [one for one in here if one.number < taken.number]
        assert not [one for one in here if one.priority < taken.priority and passed.get(taken, 0) < MOST_OVERTAKEN]
        assert not [one for one in earlier if one.priority == taken.priority and passed.get(taken, 0) < MOST_OVERTAKEN]
        for one in earlier:
            passed[one] = passed.get(one, 0) + 1
        here.remove(taken)
        assert max(passed.values(), default=0) <= MOST_OVERTAKEN
    assert [cast("Any", one).number for one in waiting] == [one.number for one in here]


def test_a_flood_of_urgent_requests_stops_nobody() -> None:
    waiting = WaitingRequests()
    patient = Asked(0, 5)
    waiting.add(cast("ScheduledRequest", patient))
    for number in range(1, 200):
        waiting.add(cast("ScheduledRequest", Asked(number, 0)))
        if cast("Any", waiting.take()) is patient:
            assert number == MOST_OVERTAKEN + 1
            return
    raise AssertionError("it still waits")


def test_a_scheduler_runs_the_urgent_first_with_the_same_answers() -> None:
    prompts = {0: "first", 1: "second", -1: "urgent", 2: "late"}
    with TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer()) as pipe:
        alone = {text: pipe.generate(text, max_new_tokens=4).token_ids for text in prompts.values()}
        with pipe.scheduler(slots=1, token_budget=8, thread=False) as scheduler:
            order: list[str] = []
            requests = {
                text: scheduler.submit(text, max_new_tokens=4, priority=priority) for priority, text in prompts.items()
            }
            while scheduler.step() or len(order) < len(requests):
                order += [text for text, request in requests.items() if request.is_done and text not in order]
            assert order == ["urgent", "first", "second", "late"]
            assert {text: request.result().token_ids for text, request in requests.items()} == alone
