# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a torch model does in one forward: norms, rotations and attentions that really run, counted, not declared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

__all__ = ["Expected", "Module", "observe"]

# Functions that rotate one tensor, and functions that may do it without calling one of those.
_ROTATE = ("rotate_half", "rotate_every_two")
_APPLY = ("apply_rotary", "_apply_rotary")


@dataclass(frozen=True, slots=True)
class Module:
    """A call of a torch module.

    Attributes:
        path: Its path in the model, "model.layers.0.input_layernorm".
        kind: The name of its class.
        epsilon: Its epsilon, 0 if it has none.
    """

    path: str
    kind: str
    epsilon: float = 0.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What one forward ran.

    Attributes:
        rms_norms: Root-mean-square norms, in the order of the calls.
        layer_norms: The layer norms that ran.
        attentions: The attention modules that ran.
        rotations: For each rotated tensor the path of the module that rotated it.
    """

    rms_norms: list[Module] = field(default_factory=list)
    layer_norms: list[Module] = field(default_factory=list)
    attentions: list[Module] = field(default_factory=list)
    rotations: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Expected:
        """From JSON."""
        norms = {key: [Module(**module) for module in data[key]] for key in ("rms_norms", "layer_norms", "attentions")}
        return cls(**norms, rotations=list(data["rotations"]))

    def counts(self) -> dict[str, int]:
        """The operators that a graph of this model should have."""
        return {
            "RMSNormalization": len(self.rms_norms),
            "RotaryEmbedding": len(self.rotations),
            "Attention": len(self.attentions),
            "LayerNormalization": len(self.layer_norms),
        }


def observe(model: Any, forward: Callable[[], Any]) -> tuple[Expected, Any]:
    """Runs one forward and notes what it did.

    Args:
        model: A torch module.
        forward: A function that runs the network once.

    Returns:
        What was seen, and what the forward gave.
    """
    seen, inside = Expected(), [""]
    handles = []
    for path, module in model.named_modules():
        kind = type(module).__name__
        called = Module(path, kind, _epsilon(module))
        target = _list_of(seen, kind, module)

        def before(*_: Any, called: Module = called, target: list[Module] | None = target) -> None:
            inside.append(called.path)
            if target is not None:
                target.append(called)

        def after(*_: Any) -> None:
            inside.pop()

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    watch = _Rotations(lambda: seen.rotations.append(inside[-1]))
    sys.setprofile(watch)
    try:
        result = forward()
    finally:
        sys.setprofile(None)
        for handle in handles:
            handle.remove()
    return seen, result


def _list_of(seen: Expected, kind: str, module: Any) -> list[Module] | None:
    """Which list a call of this module belongs to."""
    if "RMSNorm" in kind:
        return seen.rms_norms
    if "LayerNorm" in kind:
        return seen.layer_norms
    inner = any("Attention" in type(child).__name__ for child in module.modules() if child is not module)
    return seen.attentions if "Attention" in kind and not inner else None


def _epsilon(module: Any) -> float:
    for name in ("variance_epsilon", "eps"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return 0.0


class _Rotations:
    """A profile function that calls ``rotated`` once for each tensor that a forward rotates."""

    def __init__(self, rotated: Callable[[], None]) -> None:
        self._rotated = rotated
        self._open: list[bool] = []  # for each open function: has something inside it rotated?

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        name = frame.f_code.co_name
        if not name.startswith((*_ROTATE, *_APPLY)):
            return
        if event == "call":
            self._open.append(False)
        elif event == "return":
            inner = self._open.pop()
            if name.startswith(_ROTATE):
                self._rotated()
            elif not inner:
                for _ in range(len(value) if isinstance(value, tuple) else 1):
                    self._rotated()
            if self._open:
                self._open[-1] = True
