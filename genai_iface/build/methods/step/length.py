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

from genai_iface.errors import UnsupportedModelError

__all__ = ["StepLength"]

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

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """A range plus the length, and a range from it on, are those of each row: (B, S)."""
        given = dict(kwargs or {})
        length = next((each for each in args if isinstance(each, cls)), None)
        if function in _SUMS and length is not None and len(args) == 2:
            other = next(each for each in args if each is not length)
            return length._rows[:, None] + other
        if function is torch.arange and length is not None and length is args[0]:
            return length._rows[:, None] + torch.arange(args[1], **given)
        if function is torch.arange and length is None:
            start = given.pop("start", None)
            if isinstance(start, cls):
                return start._rows[:, None] + torch.arange(given.pop("end", args[0] if args else None), **given)
        raise _refused(getattr(function, "__name__", str(function)))

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


def _refused(where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The network asks its cache for its length and uses the answer in {where}; rows of a batch differ in length",
        remedy="There is no standard form of such a network yet.",
    )
