# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Choosing tokens: ties, filters, the order of processors, random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import BackendError, GenerationConfig, InvalidInputError
from genai_iface.generation import Sampler
from genai_iface.generation.sampling import filters
from genai_iface.generation.sampling import sampler as sampling

# A busy machine is slow; that is not a finding.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def law(row: np.ndarray, tokens: list[int] | None = None, num_new: int = 0, stop_ids: tuple[int, ...] = (), **fields):
    sampler = Sampler(GenerationConfig(**fields), vocab_size=len(row), stop_ids=stop_ids, seed=0)
    return sampler.probabilities(row, np.array(tokens or [], dtype=np.int64), num_new)


def greedy(
    row: np.ndarray, tokens: list[int] | None = None, num_new: int = 0, stop_ids: tuple[int, ...] = (), **fields
):
    sampler = Sampler(GenerationConfig(**fields), vocab_size=len(row), stop_ids=stop_ids, seed=0)
    return sampler.choose(row, np.array(tokens or [], dtype=np.int64), num_new, 0)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert greedy(logits(1, 3, 2, 3)) == 1
    assert greedy(logits(1, 3, 2, 3), repetition_penalty=1.5) == 1


def test_the_logits_are_not_changed() -> None:
    row = logits(1, 2, 3)
    law(row, [2], temperature=0.5, top_k=2, repetition_penalty=2.0, logit_bias={0: 5.0})
    greedy(row, [2], repetition_penalty=2.0)
    assert row.tolist() == [1, 2, 3]


def test_temperature_divides() -> None:
    expected = np.exp(np.array([1, 2, 3]) / 0.5)
    np.testing.assert_allclose(law(logits(1, 2, 3), temperature=0.5), expected / expected.sum(), rtol=1e-12)


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    assert law(logits(1, 2, 3), temperature=1e-300).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 3}, [1, 2, 3, 4]),  # 2 and 4 tie for the third place, and both stay
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.5}, [3]),
        ({"top_p": 0.64}, [1, 3]),
        ({"min_p": 0.99}, [3]),
        ({"min_p": 0.3}, [1, 3]),
        ({"top_p": 1e-9, "top_k": 5}, [3]),
    ],
)
def test_what_each_filter_keeps(fields: dict[str, float], kept: list[int]) -> None:
    probabilities = law(logits(-3, 2, 1, 3, 1), do_sample=True, **fields)
    assert np.flatnonzero(probabilities).tolist() == kept
    assert probabilities.sum() == pytest.approx(1)


def test_top_p_keeps_the_lowest_id_among_equals() -> None:
    assert np.flatnonzero(law(logits(2, 2, 2, 2), top_p=0.4)).tolist() == [0, 1]


def test_typical_may_drop_the_likeliest() -> None:
    row = np.log(np.array([0.6] + [0.1] * 4)).astype(np.float32)
    # Entropy 1.23; information 0.51 and 2.30: the likeliest is the closest one, then all others tie.
    assert np.flatnonzero(law(row, typical_p=0.5)).tolist() == [0]
    assert np.flatnonzero(law(row, typical_p=0.7)).tolist() == [0, 1, 2, 3, 4]
    row = np.log(np.array([0.4] + [0.1] * 6)).astype(np.float32)
    # Entropy 1.75: now 2.30 is closer than 0.92.
    assert np.flatnonzero(law(row, typical_p=0.5)).tolist() == [1, 2, 3, 4, 5, 6]


def test_filters_see_what_the_ones_before_left() -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    # Of the two that top-k leaves the first has 0.57, which is enough for 0.5 but not for 0.6.
    assert np.flatnonzero(law(row, top_k=2, top_p=0.5)).tolist() == [0]
    assert np.flatnonzero(law(row, top_k=2, top_p=0.6)).tolist() == [0, 1]
    assert np.flatnonzero(law(row, top_p=0.5)).tolist() == [0, 1]


def test_filters_at_large_vocabularies_agree_with_sorting() -> None:
    rng = np.random.default_rng(5)
    # Even, peaked, and a single peak over many that are far below and together likely.
    for size, spread, peak in ((4097, 3, 0), (50_257, 3, 0), (50_257, 0.2, 0), (50_257, 9, 0), (50_257, 0.1, 12)):
        scores = np.round(rng.normal(0, spread, size), 2)  # rounded: many ties
        scores[7] += peak
        order = np.argsort(-scores, kind="stable")
        weights = np.exp(scores - scores.max())
        mass = np.cumsum(weights[order]) / weights.sum()
        for k in (1, 50, 3000, size - 1):
            kth = scores[order[k - 1]]
            assert filters.keep_top_k(scores, k).tolist() == np.flatnonzero(scores >= kth).tolist()
        for p in (0.01, 0.5, 0.9, 0.999):
            expected = order[: np.searchsorted(mass, p) + 1]
            assert filters.keep_top_p(scores, p).tolist() == sorted(expected.tolist())


def test_repetition_penalty_counts_the_prompt_and_each_token_once() -> None:
    row = logits(2, -2, 1, 0)
    expected = np.exp([1, -4, 1, 0])
    actual = law(row, [0, 0, 1], repetition_penalty=2.0, do_sample=True)
    np.testing.assert_allclose(actual, expected / expected.sum(), rtol=1e-12)


def test_presence_and_frequency_penalties_count_generated_tokens_only() -> None:
    row = logits(0, 0, 0, 0)
    # The prompt is [0, 1]; generated are 1, 1 and 2.
    actual = law(row, [0, 1, 1, 1, 2], 3, presence_penalty=0.5, frequency_penalty=0.25, do_sample=True)
    expected = np.exp([0, -1.0, -0.75, 0])
    np.testing.assert_allclose(actual, expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "tokens", "banned"),
    [(1, [3, 0], {0, 3}), (2, [3, 0, 2, 3], {0}), (2, [3], set()), (3, [1, 2, 3, 1, 2], {3}), (3, [1, 2, 3, 2], set())],
)
def test_no_repeat_ngram(size: int, tokens: list[int], banned: set[int]) -> None:
    probabilities = law(logits(1, 1, 1, 1), tokens, no_repeat_ngram_size=size, do_sample=True)
    assert set(np.flatnonzero(probabilities == 0).tolist()) == banned


@pytest.mark.parametrize(
    ("words", "tokens", "banned"),
    [
        ([[2]], [], {2}),
        ([[0, 1], [3]], [0], {1, 3}),
        ([[0, 1]], [1], set()),
        ([[0, 1, 2]], [1], set()),
        ([[2]], [2], {2}),
    ],
)
def test_bad_words(words: list[list[int]], tokens: list[int], banned: set[int]) -> None:
    probabilities = law(logits(1, 1, 1, 1), tokens, bad_words_ids=words, do_sample=True)
    assert set(np.flatnonzero(probabilities == 0).tolist()) == banned


def test_a_bad_word_that_ends_the_sequence_is_legal() -> None:
    assert greedy(logits(0, 0, 5), stop_ids=(2,), bad_words_ids=[[2]]) == 2


def test_min_new_tokens_holds_the_sequence_open() -> None:
    row = logits(0, 1, 5)
    assert greedy(row, [0, 0, 0], 1, stop_ids=(2,), min_new_tokens=2) == 1
    assert greedy(row, [0, 0, 0, 0], 2, stop_ids=(2,), min_new_tokens=2) == 2


def test_logit_bias_comes_before_the_penalties() -> None:
    # 1 + 3 = 4, then divided by 2; the other order would give 3.5.
    expected = np.exp([2, 0])
    actual = law(logits(1, 0), [0], logit_bias={0: 3.0}, repetition_penalty=2.0, do_sample=True)
    np.testing.assert_allclose(actual, expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    "field", [{"logit_bias": {4: 1.0}}, {"bad_words_ids": [[0, 4]]}, {"bad_words_ids": [[10**30]]}]
)
def test_a_token_that_the_model_lacks_is_named(field: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=rf"{next(iter(field))} names the token \d+, the model has 4"):
        greedy(logits(1, 2, 3, 4), **field)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5}, {"repetition_penalty": 2.0}, {"top_k": 1}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_unusable_logits_are_an_error_of_the_backend(fields: dict[str, float], bad: float) -> None:
    with pytest.raises(BackendError, match="logits are not usable"):
        greedy(logits(1, bad, 2), **fields)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5}])
def test_nothing_left_to_choose_is_an_error(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="Every token is ruled out"):
        greedy(logits(1, 2), bad_words_ids=[[0], [1]], **fields)


# Random numbers


def test_the_random_numbers_are_those_of_the_specification() -> None:
    raw = np.random.Philox(key=np.array([7, 2], np.uint64), counter=np.array([5, 0, 0, 0], np.uint64)).random_raw()
    assert sampling.uniform(7, 2, 5) == (int(raw) >> 11) / 2**53
    # Golden values, so that a change of the stream on any platform shows.
    assert [sampling.uniform(0, 0, 0), sampling.uniform(2**64 - 1, 3, 1000)] == [
        0.011546754286331562,
        0.6344591150043761,
    ]


def test_each_number_has_its_own_key() -> None:
    numbers = {sampling.uniform(seed, index, at) for seed in range(5) for index in range(5) for at in range(5)}
    assert len(numbers) == 125


def test_the_numbers_are_uniform() -> None:
    numbers = np.array([sampling.uniform(1, 0, at) for at in range(4000)])
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    chi_squared = ((counts - 200) ** 2 / 200).sum()
    assert chi_squared < 43.8  # 19 degrees of freedom, p = 0.001


@settings(RELAXED)
@given(
    weights=st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8).filter(lambda w: sum(w) > 1e-6),
    u=st.floats(0, 1, exclude_max=True),
)
def test_draw_inverts_the_cumulative_distribution(weights: list[float], u: float) -> None:
    array = np.array(weights)
    index = sampling.draw(None, array, u)
    assert array[index] > 0
    cumulative = np.cumsum(array)
    below = cumulative[index - 1] if index else 0.0
    assert below <= u * cumulative[-1] <= cumulative[index]


def test_draw_at_the_edges_of_zero_weights() -> None:
    weights = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    assert sampling.draw(None, weights, 0.0) == 1
    assert sampling.draw(None, weights, 0.5) == 3
    assert sampling.draw(None, weights, np.nextafter(1, 0)) == 3
    assert sampling.draw(np.array([10, 20, 30, 40, 50]), weights, 0.5) == 40


def test_tokens_come_with_their_probabilities() -> None:
    row = logits(1, 2, 0.5, 3)
    fields = {"temperature": 1.3, "top_k": 3}
    sampler = Sampler(GenerationConfig(**fields), vocab_size=4, stop_ids=(), seed=11)
    drawn = [sampler.choose(row, np.zeros(at, np.int64), 0, 0) for at in range(4000)]
    expected = law(row, **fields) * 4000
    counts = np.bincount(drawn, minlength=4)
    assert counts[2] == expected[2] == 0
    likely = expected > 0
    assert ((counts - expected)[likely] ** 2 / expected[likely]).sum() < 13.8  # 2 degrees of freedom, p = 0.001


# Log-probabilities


def test_log_probabilities_are_those_of_the_unprocessed_logits() -> None:
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    row = (np.log(probabilities) + 7).astype(np.float32)
    found = sampling.log_probability(row, 1, 2)
    assert found.token_id == 1
    assert found.logprob == pytest.approx(np.log(0.2), abs=1e-6)
    assert [token for token, _ in found.top] == [3, 2]
    assert [value for _, value in found.top] == pytest.approx(np.log([0.4, 0.3]), abs=1e-6)


def test_log_probabilities_of_ties_and_without_alternatives() -> None:
    assert [token for token, _ in sampling.log_probability(logits(1, 1, 1), 2, 2).top] == [0, 1]
    assert sampling.log_probability(logits(1, 1, 1), 2, 0).top == ()
    assert len(sampling.log_probability(logits(1, 1, 1), 2, 20).top) == 3
