# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit is tested by runtimes with one bug each."""

from __future__ import annotations

import pytest

from genai_iface.conformance import all_checks
from genai_iface.conformance._context import Context
from genai_iface.conformance._runner import run_check
from tests.conformance.mutants import MUTANTS, Mutant
from tests.conformance.mutants_forms import ALSO_KILLED, FORM_MUTANTS

CHECKS = {item.id: item for item in all_checks()}


def kills(mutant: Mutant, seed: int = 0) -> bool:
    """Whether the check that a mutant names fails it."""
    context = Context(mutant.make(), seed=seed)
    try:
        return run_check(CHECKS[mutant.check], context).status == "failed"
    finally:
        context.close()


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_its_own_check_kills_a_mutant(mutant: Mutant) -> None:
    assert kills(mutant), f"{mutant.check} does not notice: {mutant.bug}"


def is_long(mutant: Mutant) -> bool:
    """Walks of masked rows take seconds for each seed: of those, one mutant runs with the quick suite."""
    return mutant.check == "L2.walk.masked" and mutant.name != "IgnoresMask"


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(each, id=f"{each.name}-{each.check}", marks=pytest.mark.slow if is_long(each) else ())
        for each in (*FORM_MUTANTS, *ALSO_KILLED)
    ],
)
def test_a_mutant_of_another_form_dies_whatever_the_seed(mutant: Mutant) -> None:
    assert [seed for seed in (1, 20, 300) if not kills(mutant, seed)] == []


def test_mutants_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in (*MUTANTS, *FORM_MUTANTS)]
    assert len(set(names)) == len(names)
    assert len(names) >= 25
