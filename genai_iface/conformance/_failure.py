# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How a check ends early, and the comparisons that end it with numbers.

Assert statements are not used: pytest does not rewrite those of a library, so they would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ConformanceFailure", "NotApplicable", "close", "equal", "expect", "on_one_line", "raises", "same_bits"]

ErrorT = TypeVar("ErrorT", bound=Exception)


class ConformanceFailure(Exception):  # noqa: N818 - a verdict on the runtime, no error of the kit
    """A runtime does not keep a contract.

    Args:
        message: What was wrong, in one sentence and on one line.
        program: Python that shows it, of any number of lines.
        numbers: What was measured, by name.
    """

    def __init__(self, message: str, *, program: str = "", **numbers: Any) -> None:
        self.message = on_one_line(message).rstrip(". ")
        self.program = program
        self.numbers = numbers
        shown = ", ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        told = f"{self.message} ({shown})" if shown else self.message
        super().__init__(f"{told}\n{program}" if program else told)


class NotApplicable(Exception):  # noqa: N818 - no error at all
    """A check has no subject here: an optional ability that is not declared, or a form that is not taken."""


def on_one_line(text: str, /) -> str:
    """A message as reports have it: what follows on more lines is the program that shows the failure."""
    return " ".join(line.strip() for line in text.splitlines())


def expect(condition: object, message: str, /, **numbers: Any) -> None:
    """Fails unless the condition holds."""
    if not condition:
        raise ConformanceFailure(message, **numbers)


def equal(got: Any, expected: Any, what: str, /) -> None:
    """Fails unless two plain values or sequences are equal."""
    left, right = (value.tolist() if isinstance(value, np.ndarray) else value for value in (got, expected))
    if left != right:
        raise ConformanceFailure(f"{what} is wrong", expected=right, got=left)


def close(got: ArrayLike, expected: ArrayLike, tolerance: float, what: str, /) -> None:
    """Fails unless two arrays agree within an absolute tolerance everywhere.

    Raises:
        ConformanceFailure: With the largest error, its first index and both values there.
    """
    left, right = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if left.shape != right.shape:
        raise ConformanceFailure(f"{what} has the wrong shape", expected=right.shape, got=left.shape)
    error = np.abs(left - right)
    # NaN compares false: it counts as wrong.
    wrong = ~(error <= tolerance)
    if not wrong.any():
        return
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ConformanceFailure(
        f"{what} is beyond the tolerance",
        max_error=float(np.nanmax(error)) if not np.isnan(error).all() else float("nan"),
        tolerance=tolerance,
        num_wrong=int(wrong.sum()),
        first_index=index,
        expected=float(right[index]),
        got=float(left[index]),
    )


def same_bits(got: NDArray[Any], expected: NDArray[Any], what: str, /) -> None:
    """Fails unless two arrays are equal bit by bit."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ConformanceFailure(
            f"{what} has another shape or type",
            expected=(expected.shape, str(expected.dtype)),
            got=(got.shape, str(got.dtype)),
        )
    left = np.frombuffer(np.ascontiguousarray(got).tobytes(), np.uint8)
    right = np.frombuffer(np.ascontiguousarray(expected).tobytes(), np.uint8)
    wrong = np.flatnonzero(left != right)
    if wrong.size:
        index = tuple(int(i) for i in np.unravel_index(int(wrong[0]) // got.dtype.itemsize, got.shape))
        raise ConformanceFailure(
            f"{what} was not kept bit by bit",
            num_wrong_bytes=int(wrong.size),
            first_index=index,
            expected=float(expected[index]),
            got=float(got[index]),
        )


def raises(kind: type[ErrorT], action: Callable[[], object], what: str, /) -> ErrorT:
    """Fails unless the action raises this kind of error; returns the error."""
    try:
        result = action()
    except kind as error:
        return error
    except Exception as error:
        raise ConformanceFailure(
            f"{what} raises the wrong error", expected=kind.__name__, got=f"{type(error).__name__}: {error}"
        ) from error
    raise ConformanceFailure(f"{what} is accepted", expected=kind.__name__, got=type(result).__name__)


def _short(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else on_one_line(str(value))
    return text if len(text) <= 200 else text[:197] + "..."
