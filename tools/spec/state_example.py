# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The example of the page "State": what a convolution of three columns keeps of two rows, step by step.

Run as ``python -m tools.spec.state_example``, it writes docs/spec/state-example.json. Which token a column of a state
holds is found by comparing it with the column that the token leaves when it runs alone, not by following the rules.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface import CacheRewindError, load_model
from tests.states.models import write_state_folder
from tools.spec.clauses import SPEC

__all__ = ["FILE", "tell"]

FILE = SPEC / "state-example.json"

# Each letter a row, each number a place; any ids would do.
_TOKENS = {f"{row}{place}": 10 * (row == "b") + place for row in "ab" for place in range(1, 9)} | {"pad": 99}
# A step's tokens row by row, lengths to rewind to, or None for a checkpoint.
_STEPS: list[tuple[str, Any]] = [
    ("prompts of 4 and 2 tokens", [["a1", "a2", "a3", "a4"], ["b1", "b2"]]),
    ("one token each", [["a5"], ["b3"]]),
    ("checkpoint", None),
    ("row 1 idles", [["a6", "a7"], []]),
    ("rewind_to([5, 3])", [5, 3]),
    ("rewind_to([4, 3])", [4, 3]),
    ("row 0 drafts two", [["a6", "a7"], ["b4"]]),
    ("rewind_to([5, 4])", [5, 4]),
    ("one token each", [["a8"], ["b5"]]),
]


def tell() -> list[dict[str, Any]]:
    """One entry for each call: its name, counts, lengths, what each row's state holds, or the error."""
    with tempfile.TemporaryDirectory() as folder:
        model: Any = load_model(write_state_folder(Path(folder) / "model", ("conv", "attention")))
        cache, columns = model.create_cache(batch_size=2, capacity=16), {}
        for name, token in _TOKENS.items():
            alone = model.create_cache(capacity=1)
            model.forward([[token]], alone)
            columns[name] = alone.states.present[0][0, :, -1].copy()
        story = []
        for name, given in _STEPS:
            error, counts = "", None
            if given is None:
                cache.checkpoint()
            elif isinstance(given[0], list):
                counts = _step(model, cache, given)
            else:
                try:
                    cache.rewind_to(given)
                except CacheRewindError as refused:
                    error = str(refused)
            held = [[_label(columns, column) for column in row.T] for row in cache.states.present[0]]
            reach = [[at for at in range(9) if _reaches(cache, row, at)] for row in range(2)]
            story.append(
                {
                    "call": name,
                    "counts": counts,
                    "lengths": cache.lengths.tolist(),
                    "states": held,
                    "reachable": reach,
                    "error": error,
                }
            )
        return story


def _step(model: Any, cache: Any, tokens: list[list[str]]) -> list[int]:
    counts = [len(row) for row in tokens]
    ids = [[_TOKENS[name] for name in row] + [_TOKENS["pad"]] * (max(counts) - len(row)) for row in tokens]
    model.forward(ids, cache, counts=np.array(counts))
    return counts


def _label(columns: dict[str, Any], column: Any) -> str:
    """The one token whose column this is, up to the rounding of a product over other rows; "0" for none."""
    if not column.any():
        return "0"
    (name,) = [name for name, alone in columns.items() if np.allclose(column, alone, rtol=1e-4, atol=1e-5)]
    return name


def _reaches(cache: Any, row: int, length: int) -> bool:
    lengths = cache.lengths
    if length > lengths[row]:
        return False
    lengths[row] = length
    return bool(cache.can_rewind_to(lengths))


if __name__ == "__main__":
    FILE.write_text(json.dumps(tell(), indent=1) + "\n", encoding="utf-8")
