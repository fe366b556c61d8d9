# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a traced network is told when it asks its cache how many tokens it holds.

Rows differ in length, so there is no such number. Where a network adds what it was told to a range, the answer is each
row's own length, in the graph; where it would decide by it, the network is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from genai_iface.errors import UnsupportedModelError

__all__ = ["AnsweredLengths", "StepLength"]

_SUMS = {torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, torch.add}


class StepLength(int):
    """The length of the cache before the step, which is another one in each row.

    As a number it is 0, so that sizes are those of the new tokens: whoever makes a mask of them gets the one of this
    package anyway.
    """

    _rows: torch.Tensor

    def __new__(cls, rows: torch.Tensor) -> StepLength:
        """The length of each row, int64 (B,)."""
        self = super().__new__(cls, 0)
        self._rows = rows
        return self

    def __add__(self, other: Any) -> Any:
        """A size of the new tokens stays what it is: as a number the length is 0."""
        return self._rows[:, None] + other if isinstance(other, torch.Tensor) else other

    __radd__ = __add__

    def __eq__(self, _: object) -> NoReturn:
        raise _refused("==")

    def __ne__(self, _: object) -> NoReturn:
        raise _refused("!=")

    def __lt__(self, _: object) -> NoReturn:
        raise _refused("<")

    def __le__(self, _: object) -> NoReturn:
        raise _refused("<=")

    def __gt__(self, _: object) -> NoReturn:
        raise _refused(">")

    def __ge__(self, _: object) -> NoReturn:
        raise _refused(">=")

    def __bool__(self) -> NoReturn:
        raise _refused("a condition")

    __hash__ = int.__hash__


class AnsweredLengths(TorchFunctionMode):
    """While it is on, what torch is given of such a length becomes that of each row, or is refused."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if not any(map(_asks, (*args, *given.values()))):
            return function(*args, **given)
        length = next((each for each in args if isinstance(each, StepLength)), None)
        if length is not None and function in _SUMS and len(args) == 2:
            return length + next(each for each in args if each is not length)
        if length is not None and function is torch.arange and length is args[0] and len(args) == 2:
            return length + torch.arange(args[1], **given)
        raise _refused(getattr(function, "__name__", str(function)))


def _asks(value: Any) -> bool:
    """Whether a value is such a length, or an index that is made of one."""
    if isinstance(value, slice):
        return any(isinstance(each, StepLength) for each in (value.start, value.stop, value.step))
    return isinstance(value, StepLength) or (isinstance(value, tuple) and any(map(_asks, value)))


def _refused(where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The network asks its cache for its length and uses the answer in {where}; rows of a batch differ in length",
        remedy="There is no standard form of such a network yet.",
    )
