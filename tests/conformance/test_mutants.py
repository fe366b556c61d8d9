# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit is tested by runtimes with one bug each."""

from __future__ import annotations

import pytest

from genai_iface.conformance import all_checks
from genai_iface.conformance._context import Context
from genai_iface.conformance._runner import run_check
from tests.conformance.mutants import Mutant
from tests.conformance.mutants_pipeline import ALL_MUTANTS

CHECKS = {item.id: item for item in all_checks()}


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in ALL_MUTANTS])
def test_its_own_check_kills_a_mutant(mutant: Mutant) -> None:
    context = Context(mutant.make())
    try:
        outcome = run_check(CHECKS[mutant.check], context)
    finally:
        context.close()
    assert outcome.status == "failed", f"{mutant.check} does not notice: {mutant.bug}"


def test_mutants_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in ALL_MUTANTS]
    assert len(set(names)) == len(names)
    assert len(names) >= 25
