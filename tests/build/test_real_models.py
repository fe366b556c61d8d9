# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Building real models that packages carry: ``python -m tools.real_models`` fetches them, nothing here does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genai_iface import load_model
from tools.real_models.packages import MODELS, find

SMOLLM2 = find("smollm2")

pytestmark = [
    pytest.mark.real,
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(
        SMOLLM2 is None,
        reason=f"real: {MODELS['smollm2'].file} is not in the cache; python -m tools.real_models smollm2",
    ),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_smollm2_is_verified_on_numpy_and_lowered_on_ort(dtype: Any, tmp_path: Path) -> None:
    """In float16 its activations pass 256, whose square float16 does not hold: the oracle has to widen them."""
    from genai_iface.build import BuildOptions, build

    assert SMOLLM2 is not None
    result = build(SMOLLM2, tmp_path / "model", BuildOptions(dtype=dtype, via="export", verify_on="numpy"))
    assert result.verified
    assert len(result.attempts) == 1
    model = load_model(result.folder, backend="ort")
    notes: tuple[str, ...] = getattr(model, "notes", ())
    model.close()
    wanted = "group-query-attention: applied (30 layers, 30 with the rotation inside, 30 from packed projections)"
    assert wanted in notes
