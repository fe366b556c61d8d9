# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of one step that run in several groups give what each row gives alone, while buffers grow and shrink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import load_model
from tests.marks import needs_ort
from tests.models import write_folder

FOLDERS: dict[str, dict[str, Any]] = {
    "scatter": {},
    "scatter, position_ids": {"position_ids": True, "max_positions": 40},
    "scatter, rank 3": {"layout": "bsh"},
    "scatter, few positions": {"max_positions": 40},
    "shared": {"style": "shared", "position_ids": True},
    "concat": {"style": "concat"},
    "circular": {"mode": "circular", "capacity": 16},
}


SIDES: dict[str, dict[str, Any]] = {
    "numpy": {"backend": "numpy"},
    "ort, none": {"backend": "ort", "options": {"optimize": "none", "growth_positions": 2}},
    "ort, runtime": {"backend": "ort", "options": {"growth_positions": 2}},
}
CASES = [
    pytest.param(fields, side, id=f"{name}-{kind}", marks=[needs_ort] if "ort" in kind else [])
    for name, fields in FOLDERS.items()
    for kind, side in SIDES.items()
    if not (name == "shared" and kind == "numpy")
]


@pytest.mark.parametrize(("fields", "side"), CASES)
def test_groups_of_rows_give_what_single_rows_give(
    tmp_path: Path, fields: dict[str, Any], side: dict[str, Any]
) -> None:
    model = load_model(write_folder(tmp_path / "model", **fields), **side)
    for mode in ("last", "all"):
        compare(model, mode)
    model.close()


def compare(model: Any, mode: Any) -> None:
    random = np.random.default_rng(1)
    together = model.create_cache(batch_size=5, capacity=40)
    alone = [model.create_cache(capacity=40) for _ in range(5)]
    # One long row beside rows with one token, idle rows at the ends, and rows of nearly one length.
    for counts in ([0, 1, 0, 1, 0], [1, 1, 14, 1, 0], [1, 14, 1, 13, 1], [0, 0, 3, 1, 2], [12, 0, 0, 1, 12], [1] * 5):
        ids = random.integers(3, 250, (5, max(counts)))
        logits = model.forward(ids, together, counts=np.array(counts), logits=mode)
        for row, count in enumerate(counts):
            if not count:
                continue
            expected = model.forward(ids[row : row + 1, :count], alone[row], logits=mode)
            given = logits[row, :count] if mode == "all" else logits[row]
            np.testing.assert_allclose(given, expected[0], rtol=0, atol=2e-5)
        assert together.lengths.tolist() == [cache.lengths[0] for cache in alone]
        full = [row for row in range(5) if together.lengths[row] > 17]
        together.reset(full)
        for row in full:
            alone[row].reset()


def test_what_a_step_has_written_survives_the_growth_that_the_step_needs(tmp_path: Path) -> None:
    """Buffers of 256 positions, a row that writes into the last of them, and one that needs more."""
    model = load_model(write_folder(tmp_path / "model", style="concat", max_positions=512))
    ids = np.random.default_rng(0).integers(3, 250, (2, 300))
    cache, alone = model.create_cache(batch_size=2), model.create_cache(capacity=400)
    model.forward(ids[:, :250], cache, counts=np.array([250, 100]), logits="none")
    step = np.zeros((2, 200), np.int64)
    step[0, :3], step[1] = ids[0, 250:253], ids[1, 100:300]
    model.forward(step, cache, counts=np.array([3, 200]), logits="none")
    model.forward(ids[:1, :253], alone, logits="none")
    together = model.forward(np.array([[7], [7]]), cache)
    np.testing.assert_allclose(together[:1], model.forward(np.array([[7]]), alone), rtol=0, atol=2e-5)
    model.close()
