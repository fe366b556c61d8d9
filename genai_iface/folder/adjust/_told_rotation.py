# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The rotary frequencies that a config.json stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ToldRotation", "told_rotations"]

_Frequencies = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ToldRotation:
    """One kind of rotation.

    Attributes:
        base: The base of the powers, rope_theta.
        kind: How they are scaled: "default", "linear", "dynamic", "llama3" or "yarn".
        fields: What the scaling takes.
        context: max_position_embeddings, for scalings that name no other.
    """

    base: float
    kind: str
    fields: Mapping[str, Any]
    context: float

    def frequencies(self, count: int) -> _Frequencies:
        """Radians per position, float64 (count,)."""
        plain = self.base ** (-np.arange(count) / count)
        return _SCALED[self.kind](plain, self)

    def number(self, name: str, default: float) -> float:
        """A field of the scaling."""
        return _number(self.fields.get(name)) or default

    def __str__(self) -> str:
        return f"rope_theta {self.base:g}" + ("" if self.kind == "default" else f" scaled as {self.kind!r}")


def told_rotations(config: Mapping[str, Any]) -> list[ToldRotation]:
    """What config.json, or its text_config, says; empty where it says nothing, or something unknown.

    Layers of different kinds may have different ones.
    """
    text = config.get("text_config")
    config = text if isinstance(text, Mapping) else config
    found = []
    for base, fields in _described(config):
        kind = fields.get("rope_type", fields.get("type", "default"))
        if base is None or base <= 1 or kind not in _SCALED:
            return []
        found.append(ToldRotation(base, str(kind), fields, _number(config.get("max_position_embeddings")) or 0))
    return found


def _described(config: Mapping[str, Any]) -> Iterator[tuple[float | None, Mapping[str, Any]]]:
    """Bases and fields, in the spelling of now and in that of before."""
    given = config.get("rope_parameters")
    if isinstance(given, Mapping):
        by_layer = [fields for fields in given.values() if isinstance(fields, Mapping)]
        for fields in by_layer or [given]:
            yield _number(fields.get("rope_theta", config.get("rope_theta"))), fields
        return
    base, scaling = config.get("rope_theta"), config.get("rope_scaling")
    if base is not None:
        yield _number(base), scaling if isinstance(scaling, Mapping) else {}
    if config.get("rope_local_base_freq") is not None:
        yield _number(config["rope_local_base_freq"]), {}


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e30 else None  # type: ignore[arg-type, operator]


def _linear(plain: _Frequencies, told: ToldRotation) -> _Frequencies:
    return plain / told.number("factor", 1.0)


def _llama3(plain: _Frequencies, told: ToldRotation) -> _Frequencies:
    """Long waves are stretched, short ones are not, and between them it goes over smoothly."""
    factor = told.number("factor", 1.0)
    low, high = told.number("low_freq_factor", 1.0), told.number("high_freq_factor", 4.0)
    turns = told.number("original_max_position_embeddings", told.context) * plain / (2 * math.pi)
    share = np.clip((turns - low) / max(high - low, 1e-6), 0, 1)
    return plain * (share + (1 - share) / factor)


def _yarn(plain: _Frequencies, told: ToldRotation) -> _Frequencies:
    """As before, by the number of turns within the original context, linear in the index."""
    count = len(plain)
    context = told.number("original_max_position_embeddings", told.context)

    def index_of(turns: float) -> float:
        return count * math.log(context / (turns * 2 * math.pi)) / math.log(told.base)

    if context <= 0:
        return plain
    first, last = index_of(told.number("beta_fast", 32.0)), index_of(told.number("beta_slow", 1.0))
    if told.fields.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * count - 1)
    stretched = np.clip((np.arange(count) - first) / max(last - first, 1e-3), 0, 1)
    scaled: _Frequencies = plain * (1 - stretched + stretched / told.number("factor", 1.0))
    return scaled


_SCALED: Mapping[str, Callable[[_Frequencies, ToldRotation], _Frequencies]] = {
    "default": lambda plain, told: plain,
    "linear": _linear,
    # Within the context that it was trained for.
    "dynamic": lambda plain, told: plain,
    "llama3": _llama3,
    "yarn": _yarn,
}
