# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit's own machinery: registry, statuses, verdicts, deviations, the two entries, the contracts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from genai_iface import InvalidInputError
from genai_iface.conformance import (
    ConformanceFailure,
    NotApplicable,
    all_checks,
    check,
    load_adapter,
    parametrize_checks,
    run_checks,
)
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import close, raises, same_bits
from genai_iface.conformance._golden import manifest
from genai_iface.conformance._results import judge
from genai_iface.conformance._runner import run_check
from genai_iface.conformance._tolerance import relative_tolerance
from genai_iface.conformance.checks.l1.operators import CASES
from genai_iface.conformance.registry import Check
from tests.conformance.mutants import IndexOffByOne
from tests.conformance.plain import PlainAdapter, PlainBackend

NUMPY = load_adapter("numpy")


def made(run: Any, *, level: int = 2, requires: frozenset[str] = frozenset()) -> Check:
    return Check(f"L{level}.made.up", level, "made up", requires, 1, (), run)


def fails(context: Context) -> None:
    raise ConformanceFailure("wrong", max_error=np.float32(0.5))


def crashes(context: Context) -> None:
    raise ZeroDivisionError("boom")


def has_no_subject(context: Context) -> None:
    raise NotApplicable("nothing here")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(PlainAdapter())


# The registry.


def test_the_order_is_that_of_the_files_whatever_was_imported_first() -> None:
    program = (
        "import genai_iface.conformance.checks.l3.fresh, genai_iface.conformance.checks.l2.write\n"
        "from genai_iface.conformance import all_checks\n"
        "print(*(item.id for item in all_checks()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [item.id for item in all_checks()]


def test_an_id_is_taken_once_and_well_formed() -> None:
    with pytest.raises(ValueError, match="taken"):
        check("L2.write.per_row_indices")
    with pytest.raises(ValueError, match="not a check id"):
        check("L9.x")


def test_every_operator_case_has_its_check() -> None:
    assert CASES.keys() == manifest()["operators"].keys()


# Statuses.


@pytest.mark.parametrize(
    ("run", "status", "message"),
    [
        (lambda context: None, "passed", ""),
        (fails, "failed", "wrong"),
        (crashes, "failed", "ZeroDivisionError: boom"),
        (has_no_subject, "not_applicable", "nothing here"),
    ],
)
def test_how_a_check_ends(run: Any, status: str, message: str, context: Context) -> None:
    outcome = run_check(made(run), context)
    assert (outcome.status, outcome.message) == (status, message)


def test_a_failure_keeps_its_numbers(context: Context) -> None:
    assert dict(run_check(made(fails), context).numbers) == {"max_error": 0.5}


def test_a_capability_of_the_profile_must_be_declared() -> None:
    context = Context(PlainAdapter(PlainBackend(info={"capabilities": frozenset({"cache_scatter"})})))
    profile = run_check(made(lambda context: None, requires=frozenset({"batch"})), context)
    assert (profile.status, profile.message) == ("failed", "not declared: batch")
    optional = run_check(made(lambda context: None, requires=frozenset({"save"})), context)
    assert optional.status == "not_applicable"
    # "logits_all" belongs to the profile of level 3, not to that of level 2.
    for level, status in ((2, "not_applicable"), (3, "failed")):
        check = made(lambda context: None, level=level, requires=frozenset({"logits_all"}))
        assert run_check(check, context).status == status


def test_declaring_nothing_reaches_no_level() -> None:
    adapter = PlainAdapter(PlainBackend(info={"capabilities": frozenset({"cache_scatter"})}))
    run = run_checks(adapter, level=3)
    verdicts = {item.level: item.verdict for item in run.levels}
    assert verdicts[2] == verdicts[3] == "does_not_reach"
    assert run.levels[2].missing == ("batch", "chunked_prefill", "ragged", "reorder", "rewind")
    assert run.verdict == "does_not_reach"


def test_what_was_not_executed_gives_no_verdict() -> None:
    run = run_checks(PlainAdapter(), level=2, only=["L2.write.prefill"])
    assert [item.verdict for item in run.levels] == ["no_verdict"] * 3
    assert run.verdict == "no_verdict"
    assert sum(outcome.status == "passed" for outcome in run.outcomes) == 1


@pytest.mark.slow
def test_a_failure_at_a_lower_level_counts() -> None:
    run = run_checks(PlainAdapter(PlainBackend(IndexOffByOne)), level=3)
    assert run.levels[2].verdict == "does_not_reach"
    assert run.verdict == "does_not_reach"


def test_a_level_without_a_passed_check_has_no_verdict() -> None:
    assert judge(1, [], frozenset()).verdict == "no_verdict"


# Tolerances and comparisons.


def test_tolerances_follow_length_and_dtype_and_are_never_loosened() -> None:
    assert relative_tolerance("float32", 400, 9) == pytest.approx(2 * relative_tolerance("float32", 100, 9))
    assert relative_tolerance("float16", 100, 16) > 8 * relative_tolerance("float32", 100, 16)
    assert relative_tolerance("bfloat16", 100, 16) > 7 * relative_tolerance("float16", 100, 16)
    assert relative_tolerance("float32", 100, 9, factor=0.5) == relative_tolerance("float32", 100, 9) / 2
    for factor in (0, -1, 1.01):
        with pytest.raises(ValueError, match="never loosen"):
            relative_tolerance("float32", 100, 9, factor=factor)
        with pytest.raises(InvalidInputError):
            run_checks(NUMPY, factor=factor)


def test_a_failed_comparison_says_how_far_off_and_where() -> None:
    got = np.zeros((2, 3))
    got[1, 2], got[1, 1] = 0.5, np.nan
    with pytest.raises(ConformanceFailure) as caught:
        close(got, np.zeros((2, 3)), 0.1, "logits")
    numbers = caught.value.numbers
    assert (numbers["max_error"], numbers["num_wrong"], numbers["first_index"]) == (0.5, 2, (1, 1))
    assert "max_error 0.5" in str(caught.value)
    with pytest.raises(ConformanceFailure, match="wrong shape"):
        close(got, np.zeros(3), 0.1, "logits")


def test_bits_are_compared_and_not_values() -> None:
    zeros = np.zeros(3, np.float32)
    same_bits(zeros, zeros.copy(), "keys")
    with pytest.raises(ConformanceFailure, match="bit by bit"):
        same_bits(zeros, -zeros, "keys")


def test_the_wrong_error_is_a_failure() -> None:
    with pytest.raises(ConformanceFailure, match="is accepted"):
        raises(ValueError, lambda: None, "nothing")
    with pytest.raises(ConformanceFailure, match="wrong error"):
        raises(KeyError, lambda: int("x"), "nothing")


# The two entries.


@parametrize_checks(NUMPY, level=1)
def test_the_pytest_entry(run: Any) -> None:
    run()


def test_both_entries_run_the_same_checks() -> None:
    mark = parametrize_checks(PlainAdapter(), level=2).mark
    assert [case.id for case in mark.args[1]] == [item.id for item in all_checks(level=2)]


@pytest.mark.slow
def test_both_entries_give_the_same_outcomes() -> None:
    adapter = PlainAdapter(PlainBackend(IndexOffByOne))
    failed = {item.check.id for item in run_checks(adapter, level=2).outcomes if item.status == "failed"}
    seen = set()
    for case in parametrize_checks(adapter, level=2).mark.args[1]:
        try:
            case.values[0]()
        except ConformanceFailure:
            seen.add(case.id)
        except pytest.skip.Exception:
            continue
    assert seen == failed
    assert "L2.write.chunk_at_offset" in failed


def test_adapters_are_found_by_name() -> None:
    assert load_adapter("numpy").name == "numpy"
    assert load_adapter("tests.conformance.plain:PlainAdapter").name == "plain"
    for name in ("no_such_backend", "tests.conformance.plain:Nothing", "no_such_module:x", "json:dumps"):
        with pytest.raises(InvalidInputError):
            load_adapter(name)
