# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Models that keep states and that nobody has seen: the weights of a golden one in another order, with other signs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance._golden import Golden, manifest
from genai_iface.conformance._tolerance import relative_tolerance
from genai_iface.conformance.decoder.fresh import FreshModel
from genai_iface.conformance.decoder.states import StateDecoder
from genai_iface.conformance.decoder.weights import Weights

__all__ = ["make_fresh_states"]

_ROUNDING = 2.0**-24
_STEADY = 0.25
_TRIES = 50


def make_fresh_states(golden: Golden, seed: int, folder: Path, *, factor: float = 1.0) -> FreshModel:
    """Makes a model of a golden model's shape with other weights.

    Args:
        golden: The model whose folder is copied.
        seed: Of weights and tokens.
        folder: An empty or missing folder; NAME/FORM-DTYPE is made in it.
        factor: Tightens the tolerance.

    Raises:
        NotApplicable: It is not float32, as half types may magnify the rounding of weights that nobody chose; or no
            draw of many bears rounding, which no seed is known for.
    """
    if golden.dtype != "float32":
        raise NotApplicable(f"weights that are drawn may magnify the rounding of {golden.dtype}; float32 judges them")
    facts = manifest()["states"][golden.name]
    random = np.random.default_rng([seed, *golden.name.encode()])
    target = folder / golden.name / golden.folder.name
    shutil.copytree(golden.folder, target, dirs_exist_ok=True)
    data = bytearray((target / "model.onnx").read_bytes())
    old = {name: _read(data, place) for name, place in facts["weights"].items()}
    relative = relative_tolerance("float32", facts["reduction_length"], facts["num_stores"], factor=factor)
    tokens = random.integers(0, golden.logits.shape[-1], golden.tokens.shape)
    for _ in range(_TRIES):
        new = {name: _mixed(name, array, random) for name, array in old.items()}
        decoder = _decoder(facts, new)
        logits = np.stack([decoder.logits(row) for row in tokens])
        tolerance = relative * float(np.abs(logits).max())
        shaken = {name: array * (1 + _ROUNDING * random.standard_normal(array.shape)) for name, array in new.items()}
        # Where a head's key is all but nothing, its direction is noise.
        if np.abs(_decoder(facts, shaken).logits(tokens[0]) - logits[0]).max() <= _STEADY * tolerance:
            break
    else:
        raise NotApplicable(f"none of {_TRIES} models drawn from seed {seed} bears rounding; another --seed may")
    for name, place in facts["weights"].items():
        stored = new[name].astype("<f4").tobytes()
        data[place["offset"] : place["offset"] + len(stored)] = stored
    (target / "model.onnx").write_bytes(data)
    fresh = dataclasses.replace(
        golden,
        folder=target,
        tokens=tokens,
        logits=logits.astype(np.float32),
        greedy_prompt=[],
        greedy=[],
        tolerance=tolerance,
    )
    return FreshModel(fresh, new, lambda sequence: np.asarray(decoder.logits(np.asarray(sequence))[-1]))


def _read(data: bytearray, place: dict[str, Any]) -> NDArray[np.float64]:
    shape = tuple(place["shape"])
    flat = np.frombuffer(data, "<f4", count=int(np.prod(shape)), offset=place["offset"])
    return flat.astype(np.float64).reshape(shape)


def _mixed(name: str, array: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """The same numbers elsewhere: they are exact in every type, and as large as they should be."""
    if name.startswith(("cos_", "sin_")):
        return array
    moved = random.permutation(array.reshape(-1)).reshape(array.shape)
    # Scales of a normalization stand around 1.
    return moved if name.endswith(".norm") else moved * random.choice((-1.0, 1.0), array.shape)


def _decoder(facts: dict[str, Any], weights: Weights) -> StateDecoder:
    mixers = facts["mixers"]
    windows = {} if facts["window"] is None else dict.fromkeys(range(len(mixers)), facts["window"])
    return StateDecoder(weights, mixers, facts["num_heads"], windows)
