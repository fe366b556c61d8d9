# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Loops with one bug each, and what the kit holds loops against."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from genai_iface.conformance import all_checks
from genai_iface.conformance._context import Context
from genai_iface.conformance._golden import open_golden
from genai_iface.conformance._runner import run_check
from genai_iface.conformance._sampling_reference import Settings, law, processed
from genai_iface.conformance.checks.l4._text import reference_logits
from tests.conformance.loops.every import EVERY_MUTANT
from tests.conformance.loops.mutants_choice import NEW_LOOP_MUTANTS
from tests.conformance.mutants import Mutant
from tests.conformance.mutants_pipeline import LOOP_MUTANTS
from tests.spec import plain_sampling

CHECKS = {item.id: item for item in all_checks()}
LOOPS = (*LOOP_MUTANTS, *NEW_LOOP_MUTANTS)


def status(mutant: Mutant, seed: int) -> str:
    context = Context(mutant.make(), seed=seed)
    try:
        return run_check(CHECKS[mutant.check], context).status
    finally:
        context.close()


# One of each kind of bug; the others are slow by their number alone.
@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in NEW_LOOP_MUTANTS[::9]])
def test_its_own_check_kills_a_loop(mutant: Mutant) -> None:
    assert status(mutant, 1) == "failed", f"{mutant.check} does not notice: {mutant.bug}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in LOOPS])
def test_its_own_check_kills_a_loop_whatever_the_seed(mutant: Mutant, seed: int) -> None:
    assert status(mutant, seed) == "failed", f"{mutant.check} does not notice: {mutant.bug}"


def test_every_mutant_has_a_name_and_a_bug_of_its_own() -> None:
    for names in ([mutant.name for mutant in EVERY_MUTANT], [mutant.bug for mutant in EVERY_MUTANT]):
        assert sorted({name for name in names if names.count(name) > 1}) == []
    assert len(EVERY_MUTANT) >= 161 + 60
    assert len(NEW_LOOP_MUTANTS) >= 30
    assert {mutant.check for mutant in EVERY_MUTANT} <= CHECKS.keys()


def test_every_check_of_states_has_a_mutant() -> None:
    killing = {mutant.check for mutant in EVERY_MUTANT}
    assert [name for name in CHECKS if ".state." in name and name not in killing] == []


def test_the_reference_of_the_text_model_is_that_of_its_golden_data() -> None:
    golden = open_golden("text", "scatter", "float32")
    got = reference_logits("float32", golden.tokens[0].tolist())
    assert np.abs(got - golden.logits[0]).max() < 1e-6


def test_the_reference_chooses_as_the_page_of_the_specification_says() -> None:
    random = np.random.default_rng(5)
    for _ in range(150):
        tokens = random.integers(0, 6, 12).tolist()
        num_new, stops = int(random.integers(0, 8)), (3, 5)
        settings = Settings(
            temperature=float(random.choice([0.5, 1.0, 2.0])),
            top_k=int(random.choice([0, 4])),
            top_p=float(random.choice([1.0, 0.7])),
            min_p=float(random.choice([0.0, 0.1])),
            typical_p=float(random.choice([1.0, 0.6])),
            repetition_penalty=float(random.choice([1.0, 1.5])),
            presence_penalty=float(random.choice([0.0, 0.5])),
            frequency_penalty=float(random.choice([0.0, 0.3])),
            no_repeat_ngram_size=int(random.choice([0, 2, 3])),
            bad_words_ids=((1, 2), (4,), (3,), (*tokens[-2:], 0)),
            min_new_tokens=int(random.choice([0, 4])),
            logit_bias={2: 1.0},
        )
        logits = random.standard_normal(10)
        config = asdict(settings)
        scores = processed(logits, tokens, settings, num_new=num_new, stops=stops)
        assert scores == plain_sampling.processed(logits.tolist(), config, tokens, num_new, stops)
        wanted = plain_sampling.probabilities(plain_sampling.survivors(scores, config))
        got = law(logits, tokens, settings, num_new=num_new, stops=stops)
        for token, chance in enumerate(got):
            assert math.isclose(chance, wanted.get(token, 0.0), abs_tol=1e-12)
