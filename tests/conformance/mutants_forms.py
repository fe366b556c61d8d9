# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runtimes with one bug each that shows in other forms of a graph only: masks and positions as inputs, experts, blocks
of small integers, states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface.conformance import GOLDEN
from genai_iface_numpy.backend import NumpyBackend
from tests.conformance.mutants import Mutant
from tests.conformance.plain import PlainAdapter, PlainBackend, PlainModel

__all__ = ["ALSO_KILLED", "FORM_MUTANTS"]

FORM_MUTANTS: list[Mutant] = []

ALSO_KILLED: list[Mutant] = []
"""The same ones, with other checks that must notice them too."""


def model(bug: str, *checks: str) -> Any:
    """Registers a model with a bug that each of these checks must notice."""

    def register(kind: type[PlainModel]) -> type[PlainModel]:
        name = kind.__name__
        first = Mutant(name, bug, checks[0], lambda: PlainAdapter(PlainBackend(kind), name))
        FORM_MUTANTS.append(first)
        ALSO_KILLED.extend(dataclasses.replace(first, check=check) for check in checks[1:])
        return kind

    return register


@model("position_ids count from the beginning of the step", "L3.fresh.masked", "L2.walk.masked", "L3.golden.masked")
class PositionsOfStep(PlainModel):
    def positions(self, lengths, width):
        return super().positions(lengths * (not self.plan.is_masked), width)


@model("position_ids of all rows are those of the first", "L3.fresh.masked", "L2.walk.masked")
class PositionsOfFirstRow(PlainModel):
    def positions(self, lengths, width):
        return super().positions(np.full_like(lengths, lengths[0]) if self.plan.is_masked else lengths, width)


@model("attention_mask is all ones: padding of shorter rows counts", "L3.fresh.masked", "L2.walk.masked")
class IgnoresMask(PlainModel):
    def nonpad(self, lengths, counts, width):
        valid = super().nonpad(lengths, counts, width)
        return np.full_like(valid, valid.max()) if self.plan.is_masked else valid


@model("attention_mask covers the new tokens only", "L3.fresh.masked", "L3.golden.masked")
class MaskOfStep(PlainModel):
    def nonpad(self, lengths, counts, width):
        valid = super().nonpad(lengths, counts, width)
        return np.full_like(valid, width) if self.plan.is_masked else valid


@model("only the best expert is asked", "L3.fresh.experts", "L3.golden.experts")
class OneExpert(PlainModel):
    def shares(self, scores):
        return (scores >= scores.max(-1, keepdims=True)).astype(np.float32)


@model("experts share by a softmax over all of them", "L3.fresh.experts", "L3.golden.experts")
class SharesOfAll(PlainModel):
    def shares(self, scores):
        mass = np.exp(scores - scores.max(-1, keepdims=True))
        return mass / mass.sum(-1, keepdims=True) * (super().shares(scores) > 0)


@model("the tokens of a batch go to the experts of its first row", "L3.fresh.experts")
class ExpertsOfFirstRow(PlainModel):
    def shares(self, scores):
        return np.broadcast_to(super().shares(scores)[:1], scores.shape)


@model("the zero point is the middle of the range", "L3.fresh.quantized", "L3.golden.quantized")
class MiddleZero(PlainModel):
    def dequantized(self, codes, scale, zero):
        return super().dequantized(codes, scale, np.full_like(zero, 128 if zero.max() > 15 else 8))


@model("all blocks have the first one's scale", "L3.fresh.quantized", "L3.golden.quantized")
class FirstScale(PlainModel):
    def dequantized(self, codes, scale, zero):
        return super().dequantized(codes, np.broadcast_to(scale[:1], scale.shape), zero)


@model("two codes of four bits are read in the wrong order", "L3.fresh.quantized", "L3.golden.quantized")
class SwappedNibbles(PlainModel):
    def dequantized(self, codes, scale, zero):
        if codes.max() < 16:
            codes = codes.reshape(-1, 2)[:, ::-1].reshape(codes.shape)
        return super().dequantized(codes, scale, zero)


class _ByHeart(NumpyBackend):
    """Knows the golden models that keep states, and takes others for them."""

    def load(self, folder: Any, /, *, device: Any = None, options: Any = None) -> Any:
        path = Path(folder)
        if path.parent.name.startswith("states-"):
            path = GOLDEN / path.parent.name / path.name
        return super().load(path, device=device, options=options)


FORM_MUTANTS.extend(
    Mutant(
        f"StatesByHeart{name.title()}",
        f"only the golden model states-{name} is computed; others of its shape get its logits",
        f"L3.fresh.state_{name}",
        lambda: PlainAdapter(_ByHeart(), "states by heart"),  # type: ignore[arg-type]
    )
    for name in ("conv", "delta", "gated", "alone")
)
