# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The runner: every check once, on one adapter, with one dtype."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from genai_iface.capabilities import LEVEL_PROFILES
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import ConformanceFailure, NotApplicable, on_one_line
from genai_iface.conformance._results import ConformanceResult, Outcome, Status, judge
from genai_iface.conformance.adapter import Adapter, profile_of
from genai_iface.conformance.deviations import Deviation
from genai_iface.conformance.registry import LEVELS, Check, all_checks
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.types import BackendInfo, DType

__all__ = ["run_check", "run_checks"]


def run_checks(
    adapter: Adapter,
    /,
    *,
    level: int = 4,
    dtype: str = "float32",
    only: Iterable[str] = (),
    deviations: Mapping[str, Deviation] | None = None,
    factor: float = 1.0,
    seed: int | None = None,
    quick: bool = False,
    long: bool = False,
    on_outcome: Callable[[Outcome], object] | None = None,
) -> ConformanceResult:
    """Runs the kit.

    Args:
        adapter: The vendor's adapter, which gives the backend under test.
        level: The highest level to run.
        dtype: Of the golden models.
        only: Ids of the checks to run; the others are not executed. None given: all.
        deviations: Known deviations by check id.
        factor: Tightens tolerances, above 0 and at most 1.
        seed: Of the models and programs that are made for this run, at least 0; None draws one.
        quick: Leaves out the checks that take long, so there is no verdict.
        long: Drives rows up to 8192 tokens too.
        on_outcome: Told each outcome as it comes.

    Raises:
        InvalidInputError: A level, dtype, id, factor or seed is not legal, or the backend does not declare the dtype.
    """
    profile = profile_of(adapter)
    checks = [item for item in all_checks(level=level) if profile in item.profiles]
    chosen = set(only)
    _check_arguments(level, dtype, factor, chosen - {item.id for item in checks})
    drawn = secrets.randbelow(2**31) if seed is None else seed
    if drawn < 0:
        raise InvalidInputError(f"The seed {drawn} is negative", remedy="Give 0 or more.")
    context = Context(adapter, dtype=dtype, factor=factor, seed=drawn, long=long)
    if dtype not in context.info.dtypes:
        raise InvalidInputError(
            f"{adapter.name} does not declare {dtype}", remedy=f"Declared: {', '.join(sorted(context.info.dtypes))}."
        )
    started = time.perf_counter()
    outcomes = []
    try:
        for item in checks:
            outcome = Outcome(item, "not_executed")
            if item.id in chosen if chosen else not (quick and item.takes_long):
                outcome = run_check(item, context, (deviations or {}).get(item.id))
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
        declared = frozenset(map(str, context.info.capabilities))
        by_level = {
            number: [item for item in outcomes if item.check.level == number] for number in LEVELS if number <= level
        }
        # A profile may have nothing to show at a level; without model and cache there is no profile of capabilities.
        levels = tuple(
            judge(number, found, declared if profile == "step" else LEVEL_PROFILES[number])
            for number, found in by_level.items()
            if found
        )
        return ConformanceResult(
            adapter=adapter.name,
            backend=_describe(context.info),
            dtype=dtype,
            form=context.form,
            level=level,
            factor=factor,
            outcomes=tuple(outcomes),
            levels=levels,
            seconds=time.perf_counter() - started,
            profile=profile,
            seed=drawn,
        )
    finally:
        context.close()


def run_check(item: Check, context: Context, deviation: Deviation | None = None, /) -> Outcome:
    """Runs one check; whatever goes wrong in it is its outcome."""
    started = time.perf_counter()
    told, program, numbers, is_failed, applies = "", "", {}, False, True
    declared = {str(name) for name in context.info.capabilities}
    missing = sorted(name for name in item.requires if name not in declared and context.profile == "step")
    if missing:
        # A level's own profile must be declared: leaving it out is no way around a check.
        is_failed = any(name in LEVEL_PROFILES[item.level] for name in missing)
        applies = is_failed
        told = f"not declared: {', '.join(missing)}"
    else:
        try:
            _run(item, context)
        except NotApplicable as reason:
            told, applies = str(reason), False
        except ConformanceFailure as failure:
            told, program, numbers, is_failed = failure.message, failure.program, failure.numbers, True
        except Exception as error:  # noqa: BLE001 - any error of the runtime is this check's finding, not the run's end
            told, is_failed = f"{type(error).__name__}: {error}", True
        finally:
            context.end_check()
    seconds = time.perf_counter() - started
    status, told, link = _judged(item, told, deviation, is_failed=is_failed, applies=applies)
    told = on_one_line(told)
    plain = {name: _plain(value) for name, value in numbers.items()}
    return Outcome(item, status, f"{told}\n{program}" if program else told, plain, seconds, link)


def _judged(
    item: Check, told: str, deviation: Deviation | None, *, is_failed: bool, applies: bool
) -> tuple[Status, str, str]:
    """How a check ended, what is said of it, and the link of its deviation."""
    if not applies:
        return "not_applicable", told, ""
    if deviation is None:
        return "failed" if is_failed else "passed", told, ""
    if not is_failed:
        said = f"passes, but is listed as a deviation ({deviation.reason}): remove the entry"
        return "failed", said, deviation.link
    if item.core:
        said = f"{told}; it is a core check, which cannot be listed as a deviation: {item.core}"
        return "failed", said, deviation.link
    if deviation.has_expired():
        return "failed", f"{told}; its deviation expired on {deviation.expires}: {deviation.reason}", deviation.link
    return "deviation", f"{deviation.reason} [{told}]", deviation.link


def _run(item: Check, context: Context) -> None:
    try:
        item.run(context)
    except UnsupportedCapabilityError as error:
        # A runtime that owns its loop may refuse by name what it cannot do; a core check needs it.
        if context.profile == "step" or item.core:
            raise
        raise NotApplicable(f"refused: {error}") from error


def _check_arguments(level: int, dtype: str, factor: float, unknown: set[str]) -> None:
    if level not in LEVELS:
        raise InvalidInputError(f"There is no level {level}", remedy=f"Levels: {', '.join(map(str, LEVELS))}.")
    if dtype not in get_args(DType):
        raise InvalidInputError(f"There is no dtype {dtype!r}", remedy=f"Legal: {', '.join(get_args(DType))}.")
    if not 0 < factor <= 1:
        raise InvalidInputError(
            f"The tolerance factor {factor} is not legal", remedy="It may tighten: above 0, at most 1. Never loosen."
        )
    if unknown:
        raise InvalidInputError(
            f"There is no check {sorted(unknown)[0]!r} up to level {level}", remedy="List the ids with --list."
        )


def _describe(info: BackendInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "runtime": info.runtime,
        "runtime_version": info.runtime_version,
        "interface_versions": sorted(info.interface_versions),
        "capabilities": sorted(map(str, info.capabilities)),
        "dtypes": sorted(info.dtypes),
        "limits": dict(info.limits),
    }


def _plain(value: Any) -> Any:
    """A number or text as JSON has it; everything else as text."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)
