# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rotations that a network writes with complex numbers, in real arithmetic while it is traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

__all__ = ["real_rotary"]


@contextmanager
def real_rotary(network: Any) -> Iterator[None]:
    """Lets the modelling files of a network compute with pairs of real numbers; afterwards with complex ones again."""
    modules = {sys.modules[type(part).__module__] for part in network.modules()}
    changed = [
        module
        for module in modules
        if module.__name__.startswith("transformers.models.") and getattr(module, "torch", None) is torch
    ]
    for module in changed:
        vars(module)["torch"] = _RealTorch()
    try:
        yield
    finally:
        for module in changed:
            vars(module)["torch"] = torch


class _Pairs:
    """Complex numbers as a real and an imaginary part."""

    def __init__(self, real: torch.Tensor, imaginary: torch.Tensor) -> None:
        self.real, self.imag = real, imaginary

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> _Pairs:
        return _Pairs(change(self.real), change(self.imag))

    def __getitem__(self, index: Any) -> _Pairs:
        return self._each(lambda part: part[index])

    def unsqueeze(self, axis: int) -> _Pairs:
        return self._each(lambda part: part.unsqueeze(axis))

    def to(self, *args: Any, **kwargs: Any) -> _Pairs:
        return self._each(lambda part: part.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.real.device

    def __mul__(self, other: _Pairs | torch.Tensor | float) -> _Pairs:
        if isinstance(other, _Pairs):
            return _Pairs(
                self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real
            )
        return self._each(lambda part: part * other)

    __rmul__ = __mul__


class _RealTorch(ModuleType):
    """torch with three functions that know no complex numbers."""

    def __init__(self) -> None:
        super().__init__("torch")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def polar(absolute: torch.Tensor, angle: torch.Tensor) -> _Pairs:
        return _Pairs(absolute * torch.cos(angle), absolute * torch.sin(angle))

    @staticmethod
    def view_as_complex(pairs: torch.Tensor) -> _Pairs:
        return _Pairs(pairs[..., 0], pairs[..., 1])

    @staticmethod
    def view_as_real(pairs: _Pairs) -> torch.Tensor:
        return torch.stack((pairs.real, pairs.imag), dim=-1)
