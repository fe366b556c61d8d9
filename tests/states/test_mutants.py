# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of models that keep states are tested by runtimes with one bug each."""

from __future__ import annotations

import pytest

from genai_iface.conformance import all_checks
from tests.conformance.mutants import Mutant
from tests.conformance.test_mutants import kills
from tests.states.mutants import STATE_MUTANTS


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in STATE_MUTANTS])
def test_its_own_check_kills_a_mutant(mutant: Mutant) -> None:
    assert kills(mutant), f"{mutant.check} does not notice: {mutant.bug}"


def test_they_are_enough() -> None:
    assert len({mutant.name for mutant in STATE_MUTANTS}) == len(STATE_MUTANTS) >= 25
    assert {mutant.check for mutant in STATE_MUTANTS} <= {item.id for item in all_checks()}
