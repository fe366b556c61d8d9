# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Every runtime with one bug that there is, those that only walks and fresh models find included."""

from __future__ import annotations

from tests.conformance.loops.mutants_choice import NEW_LOOP_MUTANTS
from tests.conformance.mutants import Mutant
from tests.conformance.mutants_forms import FORM_MUTANTS
from tests.conformance.mutants_pipeline import ALL_MUTANTS
from tests.walk.mutants import WALK_MUTANTS

__all__ = ["EVERY_MUTANT"]

EVERY_MUTANT: tuple[Mutant, ...] = (*ALL_MUTANTS, *FORM_MUTANTS, *NEW_LOOP_MUTANTS, *WALK_MUTANTS)
