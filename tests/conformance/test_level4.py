# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit with all its levels: whole runs, and every contract held."""

from __future__ import annotations

from typing import Any

import pytest

from genai_iface.conformance import (
    all_checks,
    load_adapter,
    parametrize_checks,
    run_checks,
)
from genai_iface.conformance._coverage import UNTESTABLE, checks_by_contract
from tests.conformance.plain_pipeline import PlainStack
from tools.spec.clauses import methods

NUMPY = load_adapter("numpy")
# Walks like others that the quick suite takes; .ci/run takes these too.
LONG = {"L2.walk.powers_of_two", "L2.walk.long", "L2.idle.longer_row"}


def test_there_are_many_checks_with_public_ids() -> None:
    ids = [item.id for item in all_checks()]
    assert len(ids) == len(set(ids)) >= 80
    assert all(item.title for item in all_checks())
    assert {item.level for item in all_checks()} == {0, 1, 2, 3, 4}


def test_every_contract_of_the_protocols_has_a_check_or_a_reason() -> None:
    contracts = {f"{name}.{number}" for name, m in methods().items() for number in range(1, len(m.contract) + 1)}
    checked = checks_by_contract().keys()
    assert not checked & UNTESTABLE.keys()
    assert UNTESTABLE.keys() <= contracts
    assert contracts <= checked | UNTESTABLE.keys()


def _long_ones_slow(checks: pytest.MarkDecorator) -> pytest.MarkDecorator:
    names, values = checks.args
    marked = [
        pytest.param(*each.values, id=each.id, marks=(*each.marks, *((pytest.mark.slow,) if each.id in LONG else ())))
        for each in values
    ]
    assert len(LONG.intersection(each.id for each in values)) == len(LONG)
    return pytest.mark.parametrize(names, marked)


@_long_ones_slow(parametrize_checks(PlainStack(), level=4))
def test_the_pytest_entry(run: Any) -> None:
    run()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_numpy_backend_in_half_precision(dtype: str) -> None:
    run = run_checks(NUMPY, dtype=dtype)
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "conforms"


# The pytest entry above runs the same checks.
@pytest.mark.slow
def test_a_stack_with_its_own_loop_and_no_runtime_reaches_level_4() -> None:
    run = run_checks(PlainStack())
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "conforms"


@pytest.mark.slow
def test_onnx_runtime_reaches_level_4() -> None:
    pytest.importorskip("onnxruntime")
    run = run_checks(load_adapter("ort"))
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "conforms"
