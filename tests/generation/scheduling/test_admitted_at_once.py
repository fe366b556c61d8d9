# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Requests that get their slots in one step: rows are moved once, the text is each one's own, the budget holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import Capability, TextGenerationPipeline
from genai_iface.generation.scheduling.scheduler import Scheduler
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel
from tests.generation.scheduling.test_prefixes import CONFIGS, PROMPTS, SYSTEM
from tests.models import write_folder
from tests.states.models import KINDS, write_state_folder

ROW = 256 * 8
"""Bytes of a row of the fake cache."""


class Watched:
    """A scheduler over the fake model, whose cache counts what moves rows; what must hold in each step is asserted."""

    def __init__(self, *, slots: int, rows: int, grows: bool, spare: int | None, token_budget: int) -> None:
        capabilities = ALL_CAPABILITIES | ({Capability.GROWTH} if grows else set())
        self.model = FakeModel(258, capabilities=capabilities, on_step=self._in_a_step)
        limit = None if spare is None else (slots + spare) * ROW
        self.pipeline = TextGenerationPipeline.from_parts(self.model, ByteTokenizer(), memory_limit=limit)
        self.slots = slots
        self.scheduler: Scheduler = self.pipeline.scheduler(
            slots=slots, token_budget=token_budget, thread=False, prefix_bytes=rows * ROW
        )
        self.most = min(slots + (rows if grows else 0), slots + (spare if spare is not None else rows))
        (self.cache,) = self.model.caches
        self.moves: list[tuple[int, int]] = []
        plain = self.cache.reorder

        def reorder(indices: Any, /) -> None:
            self.moves.append((self.cache.batch_size, len(indices)))
            plain(indices)
            # Not even for a moment.
            assert self.cache.batch_size <= self.most

        self.cache.reorder = reorder  # type: ignore[method-assign]
        self.expected = 0

    def step(self) -> bool:
        """One step, in which all that wait are admitted as far as there are slots."""
        scheduler = self.scheduler
        self.expected = min(self.slots, scheduler.num_running + scheduler.num_waiting)
        self.moves.clear()
        return scheduler.step()

    def _in_a_step(self, _: int) -> None:
        if not self.model.caches or not self.model.caches[0].batch_size or not self.expected:
            return
        assert self.scheduler.num_running == self.expected
        # Rows are given back in a move of their own.
        assert len([after for before, after in self.moves if after >= before]) <= 1
        assert self.scheduler.cache_bytes <= self.most * ROW
        # Idle rows are behind those that run.
        counts = self.model.steps[-1][0]
        assert not any(counts[self.expected :])


WAVES = st.lists(st.tuples(st.lists(st.tuples(PROMPTS, CONFIGS), max_size=6), st.integers(1, 12)), max_size=4)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    waves=WAVES,
    slots=st.integers(1, 4),
    extra=st.integers(0, 60),
    rows=st.sampled_from([0, 1, 3, 20]),
    grows=st.booleans(),
    spare=st.sampled_from([None, 0, 1, 4]),
)
def test_results_are_those_of_each_alone_and_rows_move_once(
    waves: list[tuple[list[Any], int]], slots: int, extra: int, rows: int, grows: bool, spare: int | None
) -> None:
    """Waves of more and fewer requests than there are slots, which find free ones and what others have left."""
    it = Watched(slots=slots, rows=rows, grows=grows, spare=spare, token_budget=slots + extra)
    submitted = []
    for requests, steps in waves:
        submitted += [(it.scheduler.submit(prompt, config), prompt, config) for prompt, config in requests]
        for _ in range(steps):
            it.step()
    while it.step():
        pass
    it.expected = 0
    for request, prompt, config in submitted:
        result, alone = request.result(), it.pipeline.generate(prompt, config)
        assert result.token_ids == alone.token_ids
        assert repr(result.logprobs) == repr(alone.logprobs)
    it.pipeline.close()


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("num_waiting", [2, 4, 7])
def test_one_donor_serves_all_that_wait(num_waiting: int, grows: bool) -> None:
    """Fewer, as many and more than there are slots; where rows cannot be added the donor's own row goes to one."""
    it = Watched(slots=4, rows=20, grows=grows, spare=None, token_budget=64)
    it.scheduler.submit(SYSTEM, max_new_tokens=1).result()
    prompts = [[*SYSTEM, 200 + at, 7] for at in range(num_waiting)]
    requests = [it.scheduler.submit(prompt, max_new_tokens=3) for prompt in prompts]
    while it.step():
        pass
    it.expected = 0
    for prompt, request in zip(prompts, requests, strict=True):
        result = request.result()
        assert result.perf_metrics.num_reused_tokens == len(SYSTEM)
        assert result.token_ids == it.pipeline.generate(prompt, max_new_tokens=3).token_ids


def test_a_row_that_is_given_away_is_still_read_by_those_that_come_with_it() -> None:
    """The oldest of two finished ones goes to a stranger; its own follower has its content all the same."""
    it = Watched(slots=2, rows=20, grows=False, spare=None, token_budget=64)
    other = [5] * 30
    for prompt in (SYSTEM, other):
        it.scheduler.submit(prompt, max_new_tokens=1).result()
    assert it.scheduler.num_kept == 2
    prompts = [[9] * 20, [*SYSTEM, 1, 2]]
    requests = [it.scheduler.submit(prompt, max_new_tokens=3) for prompt in prompts]
    results = [request.result() for request in requests]
    assert [result.perf_metrics.num_reused_tokens for result in results] == [0, len(SYSTEM)]
    it.expected = 0
    for prompt, result in zip(prompts, results, strict=True):
        assert result.token_ids == it.pipeline.generate(prompt, max_new_tokens=3).token_ids


def test_whoever_cancels_while_rows_move_reaches_those_that_get_one() -> None:
    it = Watched(slots=2, rows=20, grows=True, spare=None, token_budget=64)
    it.scheduler.submit(SYSTEM, max_new_tokens=1).result()
    requests = [it.scheduler.submit([*SYSTEM, at], max_new_tokens=9) for at in range(2)]
    plain = it.cache.reorder

    def reorder(indices: Any, /) -> None:
        it.scheduler.cancel()
        plain(indices)

    it.cache.reorder = reorder  # type: ignore[method-assign]
    it.expected = 0
    results = [request.result() for request in requests]
    assert [result.finish_reasons for result in results] == [["cancelled"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "ort"])
@pytest.mark.parametrize("kind", ["attention", *KINDS])
def test_real_caches_and_states(backend: str, kind: str, tmp_path: Path) -> None:
    """More wait than there are slots, some with a finished one's beginning, which a state reaches by checkpoints."""
    folder = (
        write_folder(tmp_path / "model", max_positions=1024)
        if kind == "attention"
        else write_state_folder(tmp_path / "model", KINDS[kind], max_positions=1024)
    )
    shared = [at % 50 + 40 for at in range(300)]
    prompts = [[*shared, 100 + at, 7] for at in range(5)] + [[at, 3, at] for at in range(2)]
    with TextGenerationPipeline(folder, backend=backend) as pipeline:
        spec = pipeline.model.spec.cache
        budget = 4 * (512 * spec.bytes_per_token + spec.bytes_per_row) + 40 * max(spec.bytes_per_row, 1)
        with pipeline.scheduler(slots=3, thread=False, prefix_bytes=budget) as scheduler:
            for number in range(2):
                requests = [scheduler.submit(prompt, max_new_tokens=5, ignore_eos=True) for prompt in prompts]
                while scheduler.step():
                    pass
                results = [request.result() for request in requests]
                reused = [result.perf_metrics.num_reused_tokens for result in results]
                assert all(count >= 300 for count in reused[number == 0 : 5]), reused
                for prompt, result in zip(prompts, results, strict=True):
                    alone = pipeline.generate(prompt, max_new_tokens=5, ignore_eos=True)
                    assert result.token_ids == alone.token_ids
