# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: whatever the order of steps, rewinds, reorders, resets, forks and saves, rows hold their sequences."""

from __future__ import annotations

from genai_iface.capabilities import LEVEL_PROFILES, Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance.registry import CheckFunction, check
from genai_iface.conformance.walk._search import climb, walk

__all__: list[str] = []

_SPEC = ("Model.forward.1", "Model.forward.6", "Model.forward.7", "KVCache.rewind_to.1", "KVCache.reorder.1")
_WALKS = {
    "linear": ("base", 6, 60, "A walk over linear caches"),
    "one_layer": ("group8", 4, 60, "A walk over linear caches of a model with one layer and one key/value head"),
    "fixed_positions": ("rank3", 4, 60, "A walk over rank-3 caches of fixed positions"),
    "masked": ("masked", 3, 60, "A walk over caches of a model that takes position_ids and attention_mask"),
    "ring": ("ring", 4, 80, "A walk over rings of 8 positions, several laps"),
    "rings": ("rings", 3, 80, "A walk over rings of 10 and 6 positions"),
}


def _runner(name: str, programs: int, length: int) -> CheckFunction:
    # Rings run ragged rows token by token in many runtimes: fewer rows, and more steps in the time that there is.
    max_rows = 12 if name not in ("ring", "rings") else 4
    return lambda context: walk(context, name, programs=programs, length=length, max_rows=max_rows)


for _check, (_name, _programs, _length, _title) in _WALKS.items():
    _needs = [*LEVEL_PROFILES[2]] if "ring" not in _check else [Capability.CACHE_CIRCULAR]
    check(
        f"L2.walk.{_check}",
        requires=_needs,
        spec=_SPEC,
        title=_title,
        core="Callers mix these calls in any order." if _check == "linear" else "",
    )(_runner(_name, _programs, _length))


@check("L2.walk.long", requires=LEVEL_PROFILES[2], spec=_SPEC)
def long(context: Context) -> None:
    """One walk of 400 operations."""
    walk(context, "base", programs=1, length=400)


@check("L2.walk.powers_of_two", requires=LEVEL_PROFILES[2], spec=(*_SPEC, "Model.forward.3"))
def powers_of_two(context: Context) -> None:
    """Walks over rows that end short of, on and past every power of two up to 4096, while others wait."""
    if context.dtype != "float32":
        raise NotApplicable(f"scores over thousands of keys are rounded to {context.dtype}; float32 judges the walk")
    climb(context, "long", programs=3, max_rows=3, longest=4112)


@check("L2.walk.long_rows", requires=LEVEL_PROFILES[2], spec=(*_SPEC, "Model.forward.3"))
def long_rows(context: Context) -> None:
    """A walk over rows that end on and past every power of two up to 8192; only where --long asks for it."""
    if not context.long:
        raise NotApplicable("rows of 8192 tokens are for --long")
    if context.dtype != "float32":
        raise NotApplicable(f"scores over thousands of keys are rounded to {context.dtype}; float32 judges the walk")
    climb(context, "longer", programs=1, max_rows=2, longest=8208)
