# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Golden models that keep states: tiny hybrids in float32, with references of whole sequences in float64."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._tolerance import relative_tolerance
from tests.states.models import Mixer, StateOptions, StateOracle, build_state_model, state_options
from tools.golden_models.search import MARGIN

__all__ = ["STATE_PLANS", "StatePlan", "state_reference", "write_states"]

_ROWS, _TOKENS, _PROMPT, _GREEDY = 3, 24, 5, 8
_VOCAB = 40
# What is summed on the longest way through one layer, and what is stored there; generous, as for attention.
_TERMS, _STORES = 160, 20


@dataclass(frozen=True)
class StatePlan:
    """One decoder with states.

    Attributes:
        name: Name of its folder.
        mixers: What its layers mix tokens with.
        fields: Other fields of ``StateOptions``.
        seed: Of the weights; chosen so that every greedy step has its margin.
    """

    name: str
    mixers: tuple[Mixer, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def options(self) -> StateOptions:
        """What its graph is made of."""
        sizes = {"hidden": 16, "num_heads": 4, "max_positions": 48, "padded_vocab": _VOCAB - 261, "seed": self.seed}
        return state_options(self.mixers, **sizes, **self.fields)


STATE_PLANS = (
    StatePlan("states-conv", ("conv", "attention")),
    StatePlan("states-delta", ("gated_delta", "attention")),
    StatePlan("states-gated", ("gated", "attention")),
    StatePlan("states-alone", ("conv", "gated_channels", "delta")),
    StatePlan("states-ring", ("gated_delta", "attention"), {"mode": "circular", "capacity": 8}),
    StatePlan("states-uncounted", ("gated_delta", "attention"), {"counted": False}),
)
"""Convolutions, the two families of recurrences, nothing but states, a window beside them, a graph without counts."""


def state_reference(plan: StatePlan) -> dict[str, NDArray[Any]]:
    """What ``reference.npz`` holds of a plan, and the smallest gap of a greedy step.

    Returns:
        tokens (3, 24), float32.logits (3, 24, V), greedy_prompt, float32.greedy, float32.scale and gap.
    """
    oracle = StateOracle(build_state_model(plan.options), plan.options)
    tokens = np.random.default_rng(7).integers(0, _VOCAB, (_ROWS, _TOKENS))
    logits = np.stack([oracle.logits(row) for row in tokens])
    sequence, gaps = tokens[0, :_PROMPT].tolist(), []
    for _ in range(_GREEDY):
        last = oracle.logits(sequence)[-1]
        second, first = np.sort(last)[-2:]
        gaps.append(first - second)
        sequence.append(int(last.argmax()))
    return {
        "tokens": tokens.astype(np.int16),
        "float32.logits": logits.astype(np.float32),
        "greedy_prompt": np.array(sequence[:_PROMPT], np.int16),
        "float32.greedy": np.array(sequence[_PROMPT:], np.int16),
        "float32.scale": np.array(float(np.abs(logits).max())),
        "gap": np.array(min(gaps)),
    }


def write_states(path: Path, plan: StatePlan) -> dict[str, Any]:
    """Writes the folder of a plan and gives its entry in the manifest.

    Raises:
        SystemExit: A greedy step has too small a margin.
    """
    arrays = state_reference(plan)
    length, stores = _TERMS * len(plan.mixers) + 16, _STORES * len(plan.mixers) + 3
    margin = float(arrays.pop("gap")) / (relative_tolerance("float32", length, stores) * float(arrays["float32.scale"]))
    if margin < MARGIN:
        raise SystemExit(f"{plan.name}: a greedy step has a margin of {margin:.2f} tolerances only; try another seed")
    folder = path / "scatter-float32"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(build_state_model(plan.options).SerializeToString(deterministic=True))
    sizes = {"max_position_embeddings": plan.options.max_positions, "vocab_size": plan.options.vocab_size}
    (folder / "config.json").write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(path / "reference.npz", allow_pickle=False, **arrays)
    return {
        "forms": ["scatter-float32"],
        "reduction_length": length,
        "num_stores": stores,
        "mixers": list(plan.mixers),
        "window": plan.fields.get("capacity"),
        "context_length": plan.options.max_positions,
        "margins": {"float32": round(margin, 2)},
        "seed": plan.seed,
    }
