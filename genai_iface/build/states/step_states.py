# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The states of the step that is traced, and whether every state that a network keeps went through an operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genai_iface.errors import UnsupportedModelError
from genai_iface.types import StateKind

__all__ = ["StateSlot", "StepStates"]

_UNKNOWN = -1
_NAMES = {"conv": "inputs of a convolution", "recurrent": "a recurrent state"}
_OPERATORS = {"conv": "CausalConvWithState", "recurrent": "LinearAttention"}


@dataclass(frozen=True, slots=True)
class StateSlot:
    """One state of a network, as an operator keeps it.

    Attributes:
        kind: Of a convolution or a recurrence.
        shape: The sizes of one row.
        dtype: Its element type.
        layer: The layer of the network that keeps it.
    """

    kind: StateKind
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int


class StepStates:
    """What the operators of a traced step read and write, in the order in which the network calls them.

    A network says through its cache what it keeps: the inputs of a convolution before it runs, the matrix of a
    recurrence after it. Both are matched with the operators that were put in the place of the network's own
    functions; what is left over, the graph would forget.
    """

    def __init__(self) -> None:
        self.begin_step(1)

    def begin_step(
        self, length: int, counts: torch.Tensor | None = None, past: Sequence[torch.Tensor] | None = None
    ) -> None:
        """Begins a step.

        Args:
            length: S, the width of the step.
            counts: int64 (B,), the real tokens of each row; None if all are.
            past: The states before the step; None to begin with zeros, which learns their shapes.
        """
        self._past = past
        self._slots: list[StateSlot] = []
        self._present: list[torch.Tensor] = []
        self._convolutions: list[tuple[int, torch.Tensor]] = []
        self._unserved: list[tuple[int, StateKind]] = []
        self._attention_layers: list[int] = []
        self._counts = counts
        self._is_real = None if counts is None else torch.arange(length)[None] < counts[:, None]

    @property
    def slots(self) -> list[StateSlot]:
        """The states that operators have kept since the step began."""
        return list(self._slots)

    @property
    def attention_layers(self) -> list[int]:
        """The layers whose cache was given keys and values, in this order."""
        return list(self._attention_layers)

    @property
    def present(self) -> list[torch.Tensor]:
        """The states after the step."""
        return list(self._present)

    @property
    def counts(self) -> torch.Tensor | None:
        """int64 (B,), the real tokens of each row; None if all are."""
        return self._counts

    def hide_padding(self, part: torch.Tensor) -> torch.Tensor:
        """A tensor (B, S, N) with zeros at padding; whatever padding computes, be it no number, is gone."""
        if self._is_real is None:
            return part
        return torch.where(self._is_real[:, :, None], part, torch.zeros((), dtype=part.dtype))

    def attention_wanted(self, layer: int) -> None:
        """A layer's cache is given keys and values."""
        self._attention_layers.append(layer)

    def convolution_wanted(self, layer: int, inputs: torch.Tensor) -> None:
        """A layer's cache is given the inputs of its next convolution."""
        self._convolutions.append((layer, inputs))

    def recurrence_wanted(self, layer: int) -> None:
        """A layer's cache is given a matrix: that of the recurrences which have run since."""
        open_slots = [index for index, slot in enumerate(self._slots) if slot.layer == _UNKNOWN]
        if not open_slots:
            self._unserved.append((layer, "recurrent"))
        for index in open_slots:
            self._slots[index] = dataclasses.replace(self._slots[index], layer=layer)

    def take_convolution(self, inputs: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The past state of the convolution of these inputs.

        Args:
            inputs: What the network convolves, the very tensor that its cache was given.
            shape: (B, C, K - 1).
            dtype: Of the state.
        """
        layer = next((layer for layer, wanted in self._convolutions if wanted is inputs), _UNKNOWN)
        self._convolutions = [each for each in self._convolutions if each[1] is not inputs]
        return self._take("conv", shape, dtype, layer)

    def take_recurrence(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The past state of a recurrence, float32 (B, H, Dk, Dv)."""
        return self._take("recurrent", shape, torch.float32, _UNKNOWN)

    def give(self, present: torch.Tensor) -> None:
        """The new state of what has taken its past one last."""
        self._present.append(present)

    def check_all_kept(self, name: str) -> None:
        """Refuses a network that keeps more, or less, than its operators do.

        Args:
            name: The network's class.

        Raises:
            UnsupportedModelError: It does.
        """
        left = [*self._unserved, *((layer, "conv") for layer, _ in self._convolutions)]
        loose = [slot for slot in self._slots if slot.layer == _UNKNOWN]
        if left:
            layer, kind = min(left)
            problem = f"Layer {layer} of {name} keeps {_NAMES[kind]} that no {_OPERATORS[kind]} has made"
        elif loose:
            problem = f"{name} has a {_OPERATORS[loose[0].kind]} whose state {loose[0].shape} it does not keep"
        else:
            return
        raise UnsupportedModelError(
            f"{problem}: a state of a kind of its own",
            remedy="There is no standard form of this model yet; use an export for one runtime.",
        )

    def _take(self, kind: StateKind, shape: tuple[int, ...], dtype: torch.dtype, layer: int) -> torch.Tensor:
        index = len(self._slots)
        self._slots.append(StateSlot(kind, tuple(int(size) for size in shape[1:]), dtype, layer))
        return torch.zeros(shape, dtype=dtype) if self._past is None else self._past[index]
