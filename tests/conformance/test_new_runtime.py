# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tutorial's runtimes: they stay short, and they reach their level."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import UnsupportedModelError, load_model
from tests.marks import needs_ort
from tests.models import write_folder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/new_runtime"
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


@pytest.mark.parametrize("name", ["onnxruntime_runtime", "openvino_runtime"])
def test_they_have_at_most_250_lines(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "capabilities"),
    [
        pytest.param("onnxruntime_runtime:OrtAdapter", {"in_place", "save", "fork", "cache_circular"}, marks=needs_ort),
        pytest.param("openvino_runtime:OpenVinoAdapter", {"fork", "cache_concat"}, marks=needs_openvino),
    ],
)
def test_they_reach_level_4(adapter: str, capabilities: set[str]) -> None:
    # A process of its own: OpenVINO and torch bring thread pools that are better kept apart.
    name = f"examples.new_runtime.{adapter}"
    command = [sys.executable, "-m", "genai_iface", "conformance", name, "--level", "4"]
    # OpenVINO shows its operators, and has no TensorScatter.
    known = "openvino" in adapter
    command += ["--deviations", "docs/reports/conformance/openvino-deviations.json"] if known else []
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == (3 if known else 0), run.stdout + run.stderr
    module, _, kind = adapter.partition(":")
    code = f"from examples.new_runtime.{module} import {kind}; print(*{kind}().backend().info().capabilities)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert capabilities <= set(said.stdout.split())


GRAPHS: dict[str, dict[str, Any]] = {
    "mask": {"attention_mask": True},
    "positions": {"position_ids": True, "nonpad": "computed", "max_positions": 20},
    "few positions": {"max_positions": 20},
    "uneven layers": {"num_kv_heads": (2, 4), "head_dim": (8, 4), "v_head_dim": (8, 12), "layout": "bsh"},
    "fixed": {"capacity": 24},
    "ring": {"mode": "circular", "capacity": 6},
}


@needs_ort
@pytest.mark.parametrize("fields", GRAPHS.values(), ids=GRAPHS)
def test_plain_sessions_run_graphs_that_the_golden_models_do_not_have(tmp_path: Path, fields: dict[str, Any]) -> None:
    from examples.new_runtime.onnxruntime_runtime import OrtBackend

    folder = write_folder(tmp_path / "model", **fields)
    models = [OrtBackend().load(folder), load_model(folder)]
    caches = [model.create_cache(batch_size=3, capacity=18) for model in models]
    random = np.random.default_rng(3)
    for counts in ([7, 2, 5], [1, 1, 1], [0, 9, 2], [1, 0, 1], [8, 1, 8], [1, 1, 1]):
        ids = random.integers(3, 250, (3, max(counts)))
        got, expected = (
            model.forward(ids, cache, counts=counts, logits="all") for model, cache in zip(models, caches, strict=True)
        )
        for row, count in enumerate(counts):
            np.testing.assert_allclose(got[row, :count], expected[row, :count], rtol=0, atol=2e-5)
    assert caches[0].update_mode == "in_place"
    saved = tmp_path / "cache.safetensors"
    models[0].save_cache(caches[0], saved)
    loaded = models[1].load_cache(saved)
    for layer in range(len(models[0].spec.cache.layers)):
        for row in range(3):
            for mine, other in zip(caches[0].read(layer, row), loaded.read(layer, row), strict=True):
                assert np.array_equal(mine, other)


@needs_ort
def test_plain_sessions_refuse_caches_that_they_cannot_drive(tmp_path: Path) -> None:
    from examples.new_runtime.onnxruntime_runtime import OrtBackend

    with pytest.raises(UnsupportedModelError, match="concat"):
        OrtBackend().load(write_folder(tmp_path / "model", style="concat"))
