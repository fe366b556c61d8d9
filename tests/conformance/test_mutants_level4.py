# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4 of the kit is tested by loops with one bug each."""

from __future__ import annotations

import pytest

from tests.conformance.mutants import Mutant
from tests.conformance.mutants_pipeline import ALL_MUTANTS, LOOP_MUTANTS
from tests.conformance.test_mutants import kills
from tests.states.mutants_levels import STATE_MUTANTS

# Those of level 2 stand in tests/states.
BEYOND_CACHES = [mutant for mutant in STATE_MUTANTS if not mutant.check.startswith("L2.")]


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in (*LOOP_MUTANTS, *BEYOND_CACHES)])
def test_its_own_check_kills_a_mutant_of_other_levels(mutant: Mutant) -> None:
    assert kills(mutant), f"{mutant.check} does not notice: {mutant.bug}"


def test_all_mutants_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in ALL_MUTANTS]
    assert len(set(names)) == len(names)
