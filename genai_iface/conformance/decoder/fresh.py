# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Models that nobody has seen: a golden folder's graph with weights from a seed, and references computed for them.

Only the bytes of the weights change in the files, so nothing here needs to understand ONNX or safetensors, and what
loads a golden model loads these. Their hashes are new in every run: a runtime that knows answers by heart knows none.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._failure import ConformanceFailure, close
from genai_iface.conformance._golden import Golden, manifest
from genai_iface.conformance._tolerance import UNIT_ROUNDOFF, relative_tolerance
from genai_iface.conformance.decoder.plan import PLANS, Plan
from genai_iface.conformance.decoder.quantized import codes_of, is_quantized
from genai_iface.conformance.decoder.reference import draw_row, greedy, logits_of
from genai_iface.conformance.decoder.weights import Weights, rounded, weights_of

__all__ = ["FreshModel", "fresh_weights", "make_fresh"]

_MARGIN = 4.0
# A runtime rounds in more places than the weights, which are what is moved here, so many times.
_BORNE = 4.0
_SHAKES = 8
_FILES = ("model.onnx", "model.safetensors")


@dataclasses.dataclass(frozen=True, slots=True)
class FreshModel:
    """What a fresh model is made of, and its logits after any tokens.

    Attributes:
        golden: The folder with its references, as checks take them.
        weights: In float64, by name.
        last: Computes the logits (V,) after a sequence.
        moved: How far roundings of the dtype may move these; asked where logits are beyond their tolerance.
    """

    golden: Golden
    weights: Weights
    last: Callable[[Sequence[int]], NDArray[np.float64]]
    moved: Callable[[Sequence[int]], float] = lambda _: 0.0
    _known: dict[tuple[int, ...], NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """The logits (V,) after a sequence."""
        key = tuple(tokens)
        if key not in self._known:
            self._known[key] = self.last(key)
        return self._known[key]

    def check_logits(self, got: NDArray[Any], tokens: Sequence[int], what: str) -> None:
        """Fails unless logits (V,) are those after a sequence.

        The tolerance is for weights that were chosen; among many sequences of drawn ones are some whose logits hang on
        a rounding of a half type.
        """
        expected = self.logits_after(tokens)
        # It is relative to the largest logit, which other sequences may exceed.
        scale = max(1.0, float(np.abs(expected).max() / np.abs(self.golden.logits).max()))
        tolerance = self.golden.tolerance * scale
        try:
            close(got, expected, tolerance, what)
        except ConformanceFailure:
            wider = _BORNE * self.moved(tokens)
            if wider <= tolerance:
                raise
            close(got, expected, wider, what)


def make_fresh(golden: Golden, seed: int, folder: Path, *, factor: float = 1.0) -> FreshModel:
    """Makes a model of a golden model's shape with other weights.

    Args:
        golden: The model whose folder is copied.
        seed: Of weights and tokens.
        folder: An empty or missing folder; NAME/FORM-DTYPE is made in it.
        factor: Tightens the tolerance.

    Raises:
        ValueError: A weight is not found in the files exactly once.
    """
    plan = next(plan for plan in PLANS if plan.name == golden.name)
    random = np.random.default_rng([seed, *golden.name.encode()])
    old, new = weights_of(plan), _drawn_weights(plan, random)
    target = folder / golden.name / golden.folder.name
    shutil.copytree(golden.folder, target, dirs_exist_ok=True)
    (changed,) = [target / name for name in _FILES if (target / name).is_file() and _is_read(name, golden.form)]
    changed.write_bytes(
        _patched(changed.read_bytes(), plan, old, new, "bfloat16" if changed.suffix == ".safetensors" else golden.dtype)
    )
    for name in _FILES:
        if target / name != changed:
            (target / name).unlink(missing_ok=True)
    rows, length = golden.tokens.shape
    tokens = np.array([draw_row(plan, new, golden.dtype, random, length) for _ in range(rows)], np.int64)
    logits = np.stack([logits_of(plan, new, golden.dtype, row, plan.keep) for row in tokens])
    facts = manifest()["models"][golden.name]
    relative = relative_tolerance(
        plan.judged_as(golden.dtype), facts["reduction_length"], facts["num_stores"], factor=factor
    )
    tolerance = relative * float(np.abs(logits).max())
    prompt, said = _greedy(plan, new, golden, tolerance / factor, random)
    fresh = dataclasses.replace(
        golden,
        folder=target,
        tokens=tokens,
        logits=logits.astype(np.float32),
        greedy_prompt=prompt,
        greedy=said,
        tolerance=tolerance,
    )

    def last(sequence: Sequence[int]) -> NDArray[np.float64]:
        return np.asarray(logits_of(plan, new, golden.dtype, sequence, 1)[0])

    if golden.dtype == "float32":
        return FreshModel(fresh, new, last)
    return FreshModel(fresh, new, last, lambda sequence: _moved(plan, new, golden.dtype, sequence))


def _moved(plan: Plan, weights: Weights, dtype: str, tokens: Sequence[int]) -> float:
    """How far a logit after a sequence moves when every weight moves by about half a step of the dtype.

    Of each trial the largest change, of these the root mean square.
    """
    random = np.random.default_rng(list(tokens))
    exact = logits_of(plan, weights, dtype, tokens, 1)
    unit = UNIT_ROUNDOFF[dtype]
    changes = []
    for _ in range(_SHAKES):
        moved = {name: array * (1 + unit * random.standard_normal(array.shape)) for name, array in weights.items()}
        changes.append(float(np.abs(logits_of(plan, moved, dtype, tokens, 1) - exact).max()))
    return float(np.sqrt(np.mean(np.square(changes))))


def fresh_weights(plan: Plan, seed: int) -> Weights:
    """The weights that ``make_fresh`` gives a model of this plan."""
    return _drawn_weights(plan, np.random.default_rng([seed, *plan.name.encode()]))


def _drawn_weights(plan: Plan, random: np.random.Generator) -> Weights:
    return weights_of(dataclasses.replace(plan, seed=int(random.integers(2**31))))


def _is_read(name: str, form: str) -> bool:
    return name.endswith(".safetensors") == (form == "checkpoint")


def _patched(
    data: bytes, plan: Plan, old: Mapping[str, NDArray[np.float64]], new: Mapping[str, NDArray[np.float64]], dtype: str
) -> bytes:
    for name in old:
        if plan.is_quantized and is_quantized(name):
            ways = [(codes_of(name, old[name]).stored(), codes_of(name, new[name]).stored())]
        else:
            # A checkpoint has its matrices the other way round.
            turned = (old[name], new[name]), (old[name].T, new[name].T)
            ways = [(_stored(a, dtype), _stored(b, dtype)) for a, b in turned]
        places = [(data.find(a), a, b) for a, b in ways[: 1 if old[name].ndim == 1 else 2] if data.count(a) == 1]
        if len(places) != 1:
            raise ValueError(f"the weight {name!r} is not in the file exactly once")
        place, before, after = places[0]
        data = data[:place] + after + data[place + len(before) :]
    return data


def _stored(values: NDArray[np.float64], dtype: str) -> bytes:
    """Little-endian bytes in C order; every dtype holds the weights exactly."""
    exact = np.ascontiguousarray(values.astype(np.float32))
    if dtype == "bfloat16":
        return (rounded(exact, dtype).view(np.uint32) >> 16).astype("<u2").tobytes()
    return exact.astype("<f2" if dtype == "float16" else "<f4").tobytes()


def _greedy(
    plan: Plan, weights: Weights, golden: Golden, tolerance: float, random: np.random.Generator
) -> tuple[list[int], list[int]]:
    """A prompt whose greedy tokens are far enough from their runners-up, as long as there are any; maybe none."""
    for length in (6, 6, 6, 5, 5, 4, 4, 3):
        prompt = draw_row(plan, weights, golden.dtype, random, length)
        for steps in (6, 3, 1):
            said, margins, _ = greedy(plan, weights, golden.dtype, prompt, steps)
            if min(margins) >= _MARGIN * tolerance:
                return prompt, said
    return prompt, []
