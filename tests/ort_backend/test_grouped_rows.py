# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of one step that run in several groups give what each row gives alone, while buffers grow and shrink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import load_model
from tests.models import write_folder

FOLDERS: dict[str, dict[str, Any]] = {
    "scatter": {},
    "scatter, position_ids": {"position_ids": True, "max_positions": 40},
    "scatter, rank 3": {"layout": "bsh"},
    "scatter, few positions": {"max_positions": 40},
    "shared": {"style": "shared", "position_ids": True},
    "circular": {"mode": "circular", "capacity": 16},
}


@pytest.mark.parametrize("optimize", ["none", "runtime"])
@pytest.mark.parametrize("fields", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("mode", ["last", "all"])
def test_groups_of_rows_give_what_single_rows_give(
    tmp_path: Path, fields: dict[str, Any], optimize: str, mode: Any
) -> None:
    folder = write_folder(tmp_path / "model", **fields)
    model = load_model(folder, backend="ort", options={"optimize": optimize, "growth_slots": 2})
    random = np.random.default_rng(1)
    together = model.create_cache(batch_size=5, capacity=40)
    alone = [model.create_cache(capacity=40) for _ in range(5)]
    # One long row beside rows with one token, idle rows at the ends, and rows of nearly one length.
    for counts in ([0, 1, 0, 1, 0], [1, 1, 25, 1, 0], [1, 24, 1, 23, 1], [0, 0, 3, 1, 2], [20, 0, 0, 1, 19], [1] * 5):
        ids = random.integers(3, 250, (5, max(counts)))
        logits = model.forward(ids, together, counts=np.array(counts), logits=mode)
        for row, count in enumerate(counts):
            if not count:
                continue
            expected = model.forward(ids[row : row + 1, :count], alone[row], logits=mode)
            given = logits[row, :count] if mode == "all" else logits[row]
            np.testing.assert_allclose(given, expected[0], rtol=0, atol=2e-5)
        assert together.lengths.tolist() == [cache.lengths[0] for cache in alone]
        full = [row for row in range(5) if together.lengths[row] > 12]
        together.reset(full)
        for row in full:
            alone[row].reset()
    model.close()
