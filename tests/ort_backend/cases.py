# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The tiny models that the tests of this backend run, by name, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import load_model
from tests.models import write_folder

pytest.importorskip("onnxruntime", reason="the ort backend needs onnxruntime: pip install '.[ort]'")

# Quantized weights are multiplied in float32, as elsewhere; the runtime's default rounds activations to int8.
EXACT = {"session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}

CASES: dict[str, dict[str, Any]] = {
    "scatter": {},
    "scatter-bsh": {"layout": "bsh"},
    "scatter-computed-nonpad": {"nonpad": "computed"},
    "scatter-position-ids": {"position_ids": True},
    "scatter-mask": {"attention_mask": True},
    "scatter-fixed": {"capacity": 48},
    "scatter-fixed-bsh": {"capacity": 48, "layout": "bsh", "position_ids": True},
    "scatter-uneven-layers": {"num_kv_heads": [2, 1], "head_dim": [8, 16]},
    "scatter-wide-values": {"head_dim": 8, "v_head_dim": 16},
    "scatter-softcap": {"softcap": 5.0},
    "scatter-partial-rotary": {"rotary_dim": 4},
    "scatter-sincos": {"positions": "sincos"},
    "scatter-learned": {"positions": "learned"},
    "scatter-int8-tied": {"quantize": "int8", "tied": True},
    "scatter-int4": {"quantize": "int4"},
    "scatter-external-data": {"external_data": True, "capacity": 48},
    "scatter-anonymous": {"anonymous": True},
    "scatter-float16": {"dtype": "float16"},
    "scatter-bfloat16": {"dtype": "bfloat16"},
    "scatter-bfloat16-bsh": {"dtype": "bfloat16", "layout": "bsh", "capacity": 48},
    "circular": {"mode": "circular", "capacity": 16},
    "circular-and-linear": {"mode": ["circular", "linear"], "capacity": [16, None]},
    "concat": {"style": "concat"},
    "concat-mask-positions": {"style": "concat", "attention_mask": True, "position_ids": True},
    "concat-float16": {"style": "concat", "dtype": "float16"},
    "concat-bfloat16": {"style": "concat", "dtype": "bfloat16"},
    "concat-nodes": {"style": "concat_nodes"},
    "concat-nodes-bsh": {"style": "concat_nodes", "layout": "bsh"},
    "concat-decomposed": {"style": "decomposed"},
    "concat-mask-positions-inside": {"style": "decomposed", "positions_from_mask": True},
    "shared": {"style": "shared", "position_ids": True},
    "shared-lengths": {"style": "shared", "position_ids": True, "attention_mask": False},
    "shared-fixed": {"style": "shared", "position_ids": True, "capacity": 48},
    "shared-float16": {"style": "shared", "position_ids": True, "dtype": "float16"},
}

TOLERANCES = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 2e-1}


def write(path: Path, name: str, **more: Any) -> Path:
    """Writes the folder of a case."""
    return write_folder(path / name, **{**CASES[name], **more})


def tolerance(name: str) -> float:
    """How far logits may lie from the NumPy backend's; quantized models have larger ones."""
    wide = 4.0 if "quantize" in CASES[name] else 1.0
    return wide * TOLERANCES[CASES[name].get("dtype", "float32")]


def ort_model(folder: Path, level: str = "runtime", **options: Any) -> Any:
    """The folder on the backend under test."""
    return load_model(folder, backend="ort", options={**EXACT, "optimize": level, **options})


def numpy_model(path: Path, name: str, **more: Any) -> Any:
    """The same weights on the reference backend; for the shared style, in a scatter graph."""
    fields = {**CASES[name], **more}
    if fields.get("style") == "shared":
        fields = {**fields, "style": "scatter", "attention_mask": False}
    return load_model(write_folder(path / f"{name}-reference", **fields), backend="numpy")


def is_circular(name: str) -> bool:
    """Whether rows of the case may forget."""
    return name.startswith("circular")


def close(actual: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal within the case's tolerance, and the same greedy token wherever the margin is clear."""
    assert actual.dtype == np.float32
    atol = tolerance(name)
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=1e-4)
    top = np.sort(expected, axis=-1)
    clear = top[..., -1] - top[..., -2] > 4 * atol
    assert np.array_equal(actual.argmax(-1)[clear], expected.argmax(-1)[clear])
