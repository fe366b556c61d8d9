# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A prefix is run once: the tokens of each request alone, whatever is reused, within the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import Capability, GenerationConfig, InvalidInputError, TextGenerationPipeline
from genai_iface.generation.scheduling.prefix_tree import PrefixTree
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel
from tests.models import write_folder
from tests.states.models import KINDS, write_state_folder

SYSTEM = list(range(60, 110))


def hashing(**arguments: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline.from_parts(FakeModel(258, **arguments), ByteTokenizer())


def num_run(pipeline: TextGenerationPipeline) -> int:
    assert isinstance(pipeline.model, FakeModel)
    return sum(sum(counts) for counts, _ in pipeline.model.steps)


# The tree, against the plainest way to do it


SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=12)


@given(SEQUENCES, st.lists(st.integers(0, 2), max_size=9), st.sets(st.integers(0, 11)))
def test_the_tree_finds_what_comparing_finds(held: list[list[int]], asked: list[int], removed: set[int]) -> None:
    tree: PrefixTree[int] = PrefixTree()
    for key, tokens in enumerate(held):
        tree.insert(key, tokens)
    for key in removed:
        tree.remove(key)
    left = {key: tokens for key, tokens in enumerate(held) if key not in removed}
    assert len(tree) == len(left)

    def common(tokens: list[int]) -> int:
        return next(
            (at for at, (a, b) in enumerate(zip(tokens, asked, strict=False)) if a != b), min(len(tokens), len(asked))
        )

    expected = {key: size for key, tokens in left.items() if (size := common(tokens))}
    found: dict[int, int] = {}
    for size, keys in tree.matches(asked):
        for key in keys:
            found.setdefault(key, size)
    assert found == expected


# The same as alone


PROMPTS = st.builds(
    lambda cut, more: SYSTEM[:cut] + more,
    st.sampled_from([0, 15, 16, 17, 40, 50]),
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
)
CONFIGS = st.builds(
    GenerationConfig,
    max_new_tokens=st.integers(0, 9),
    temperature=st.sampled_from([0.0, 0.9]),
    logprobs=st.sampled_from([None, 1]),
    echo=st.booleans(),
    seed=st.integers(0, 99),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(st.tuples(PROMPTS, CONFIGS, st.integers(0, 9), st.booleans()), min_size=2, max_size=9),
    slots=st.integers(1, 3),
    extra=st.integers(0, 40),
    rows=st.sampled_from([0, 1, 3, 20]),
    grows=st.booleans(),
)
def test_results_are_those_of_each_request_alone(
    requests: list[tuple[list[int], GenerationConfig, int, bool]], slots: int, extra: int, rows: int, grows: bool
) -> None:
    """Prompts share beginnings, requests come, go and are cancelled at any time, and rows are few or many."""
    capabilities = ALL_CAPABILITIES | ({Capability.GROWTH} if grows else set())
    with hashing(capabilities=capabilities) as pipeline:
        budget = rows * 256 * 8
        scheduler = pipeline.scheduler(slots=slots, token_budget=slots + extra, thread=False, prefix_bytes=budget)
        submitted = []
        for prompt, config, steps, is_cancelled in requests:
            submitted.append(scheduler.submit(prompt, config))
            for _ in range(steps):
                scheduler.step()
                assert scheduler.num_kept * 256 * 8 <= budget
            if is_cancelled:
                submitted[-1].cancel()
        for request, (prompt, config, _, is_cancelled) in zip(submitted, requests, strict=True):
            result, alone = request.result(), pipeline.generate(prompt, config)
            if is_cancelled:
                assert result.token_ids[0] == alone.token_ids[0][: len(result.token_ids[0])]
                continue
            assert result.token_ids == alone.token_ids
            assert repr(result.logprobs) == repr(alone.logprobs)
            reused = result.perf_metrics.num_reused_tokens
            assert reused <= len(prompt) - 1
            assert not reused or rows


@pytest.mark.parametrize("at_once", [True, False])
def test_a_system_prompt_is_run_once(at_once: bool) -> None:
    """Sixteen chats, all at once or one after the other: what they share runs for the first of them only."""
    with hashing() as pipeline, pipeline.scheduler(slots=4, token_budget=16, thread=False, prefix_bytes=2**20) as it:
        prompts = [[*SYSTEM, 200 + at, 7] for at in range(16)]
        requests = []
        for prompt in prompts:
            requests.append(it.submit(prompt, max_new_tokens=2))
            if not at_once:
                requests[-1].result()
        results = [request.result() for request in requests]
        reused = [result.perf_metrics.num_reused_tokens for result in results]
        assert reused == [0, *[len(SYSTEM)] * 15]
        assert num_run(pipeline) == len(SYSTEM) + 16 * (2 + 1)
        for prompt, result in zip(prompts, results, strict=True):
            assert result.token_ids == pipeline.generate(prompt, max_new_tokens=2).token_ids


def test_the_next_turn_goes_on_where_the_last_one_ended() -> None:
    with hashing() as pipeline, pipeline.scheduler(slots=2, thread=False, prefix_bytes=2**20) as it:
        first = it.submit(SYSTEM, max_new_tokens=5).result()
        again = it.submit([*SYSTEM, *first.token_ids[0], 1, 2, 3], max_new_tokens=2).result()
        # The last token of an answer has not run.
        assert again.perf_metrics.num_reused_tokens == len(SYSTEM) + 4


def test_who_was_used_longest_ago_goes_first() -> None:
    with hashing() as pipeline, pipeline.scheduler(slots=2, thread=False, prefix_bytes=2 * 256 * 8) as it:
        prompts = [[at] * 30 for at in range(3)]

        def reused(prompt: list[int]) -> int:
            return it.submit(prompt, max_new_tokens=1).result().perf_metrics.num_reused_tokens

        assert [reused(prompt) for prompt in (prompts[0], prompts[1])] == [0, 0]
        assert reused(prompts[0]) == 29
        assert reused(prompts[2]) == 0
        assert reused(prompts[0]) == 29
        assert reused(prompts[1]) == 0


def test_nothing_is_kept_unless_asked_for() -> None:
    with hashing() as pipeline, pipeline.scheduler(slots=2, thread=False) as it:
        it.submit(SYSTEM, max_new_tokens=1).result()
        assert it.submit(SYSTEM, max_new_tokens=1).result().perf_metrics.num_reused_tokens == 0
        assert it.num_kept == 0
    with hashing() as pipeline, pytest.raises(InvalidInputError, match="prefix_bytes=-1"):
        pipeline.scheduler(prefix_bytes=-1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "ort"])
@pytest.mark.parametrize("style", ["scatter", "concat", "shared"])
def test_real_caches_give_equal_text_and_keep_the_budget(backend: str, style: str, tmp_path: Path) -> None:
    # Past lengths in a shared buffer do not tell positions.
    folder = write_folder(tmp_path / "model", style=style, max_positions=512, position_ids=style == "shared")
    with TextGenerationPipeline(folder, backend=backend) as pipeline:
        budget = 3 * 256 * pipeline.model.spec.cache.bytes_per_token
        prompts = [[*SYSTEM, at, *([at + 9] * (at % 3))] for at in range(7)]
        with pipeline.scheduler(slots=2, thread=False, prefix_bytes=budget) as scheduler:
            requests = [scheduler.submit(prompt, max_new_tokens=6) for prompt in prompts]
            while scheduler.step():
                assert scheduler.num_kept <= 3
                assert scheduler.cache_bytes <= (2 + 3) * 256 * pipeline.model.spec.cache.bytes_per_token
            results = [request.result() for request in requests]
        assert sum(result.perf_metrics.num_reused_tokens for result in results) >= 5 * len(SYSTEM)
        for prompt, result in zip(prompts, results, strict=True):
            assert result.token_ids == pipeline.generate(prompt, max_new_tokens=6).token_ids


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "ort"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", ["gated_delta", "alone"])
def test_models_with_states_go_on_from_a_checkpoint(backend: str, at_once: bool, kind: str, tmp_path: Path) -> None:
    """A state cannot be cut: the second prompt goes on from a checkpoint, the third from where the second parted."""
    folder = write_state_folder(tmp_path / "model", KINDS[kind], max_positions=512)
    shared = [at % 50 + 40 for at in range(300)]
    prompts = [[*shared, 100 + at, 7] for at in range(3)]
    with (
        TextGenerationPipeline(folder, backend=backend) as pipeline,
        pipeline.scheduler(slots=3, thread=False, prefix_bytes=2**26) as scheduler,
    ):
        requests = []
        for prompt in prompts:
            requests.append(scheduler.submit(prompt, max_new_tokens=6, ignore_eos=True))
            if not at_once:
                requests[-1].result()
        results = [request.result() for request in requests]
        reused = [result.perf_metrics.num_reused_tokens for result in results]
        assert reused == ([0, 300, 300] if at_once else [0, 256, 300])
        for prompt, result in zip(prompts, results, strict=True):
            alone = pipeline.generate(prompt, max_new_tokens=6, ignore_eos=True)
            assert result.token_ids == alone.token_ids


@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_a_long_row_that_waits_keeps_its_content(backend: str, tmp_path: Path) -> None:
    """Short rows get short buffers back, but not at the cost of a kept row beside them."""
    folder = write_folder(tmp_path / "model", layers=1, max_positions=4096)
    long, short = [[at % 200 for at in range(1500)]], [5, 6, 7]
    with TextGenerationPipeline(folder, backend=backend) as pipeline:
        model = pipeline.model
        cache, alone = model.create_cache(batch_size=2), model.create_cache()
        model.forward([[0] * 1500, long[0]], cache, counts=[0, 1500], logits="none")
        model.forward(long, alone, logits="none")
        model.forward([short, short], cache, counts=[3, 0], logits="none")
        got = model.forward([[9], [9]], cache, counts=[0, 1])
        expected = model.forward([[9]], alone)
        assert abs(got[1] - expected[0]).max() < 1e-4
