# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit as a parametrised test of the vendor's own suite: the same registry, the same outcomes."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import ConformanceFailure
from genai_iface.conformance._results import Outcome
from genai_iface.conformance._runner import run_check
from genai_iface.conformance.adapter import Adapter
from genai_iface.conformance.deviations import read_deviations
from genai_iface.conformance.registry import Check, all_checks

__all__ = ["parametrize_checks"]


def parametrize_checks(
    adapter: Adapter,
    /,
    *,
    level: int = 4,
    dtype: str = "float32",
    deviations: str | PathLike[str] | None = None,
    factor: float = 1.0,
    argument: str = "run",
) -> Any:
    """A ``pytest.mark.parametrize`` with one case per check; its id is the check's.

    The test gets a function without arguments. Calling it runs the check: a failure raises
    ConformanceFailure, a check that has no subject skips, a known deviation is an expected failure.

    Args:
        adapter: The vendor's adapter, which gives the backend under test.
        level: The highest level.
        dtype: Of the golden models.
        deviations: The file of known deviations.
        factor: Tightens tolerances, above 0 and at most 1.
        argument: Name of the test's parameter.

    Raises:
        InvalidInputError: The file of deviations is not legal.
    """
    # The kit itself must import without pytest.
    import pytest  # noqa: PLC0415

    known = read_deviations(deviations, dtype=dtype) if deviations is not None else {}
    shared: dict[str, Context] = {}

    def context() -> Context:
        # Made with the first check, not when tests are collected.
        if "" not in shared:
            shared[""] = Context(adapter, dtype=dtype, factor=factor)
            atexit.register(shared[""].close)
        return shared[""]

    def case(item: Check) -> Callable[[], None]:
        def run() -> None:
            outcome = run_check(item, context(), known.get(item.id))
            _report(outcome, {"skip": pytest.skip, "xfail": pytest.xfail})

        return run

    return pytest.mark.parametrize(argument, [pytest.param(case(item), id=item.id) for item in all_checks(level=level)])


def _report(outcome: Outcome, ways: Mapping[str, Callable[..., Any]]) -> None:
    if outcome.status == "failed":
        told, _, program = outcome.message.partition("\n")
        raise ConformanceFailure(f"{outcome.check.id}: {told}", program=program, **outcome.numbers)
    if outcome.status == "not_applicable":
        ways["skip"](outcome.message)
    if outcome.status == "deviation":
        ways["xfail"](f"{outcome.message} ({outcome.link})")
