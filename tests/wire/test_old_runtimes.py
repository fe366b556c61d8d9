# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A fault that is known and mended upstream is found again in the version that had it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADAPTER = "examples.new_runtime.onnxruntime_runtime:OrtAdapter"
# Chunks behind a past: the causal offset left out nonpad_kv_seqlen before ONNX Runtime 1.28.
WRONG = ("L2.write.chunk_at_offset", "L2.write.ragged_chunk", "L3.golden.two_layers", "L3.golden.masked")
RIGHT = ("L2.write.prefill", "L2.write.one_by_one", "L2.rewind.to_zero")


@pytest.mark.slow
def test_the_causal_offset_of_onnx_runtime_1_27(tmp_path: Path) -> None:
    install = ["install", "-q", "--no-deps", "--target", str(tmp_path / "old"), "onnxruntime==1.27.0"]
    done = subprocess.run([sys.executable, "-m", "pip", *install], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"onnxruntime 1.27.0 cannot be installed here: {done.stderr.strip()[-200:]}")
    paths = [str(tmp_path / "old"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    only = [word for name in (*WRONG, *RIGHT) for word in ("--only", name)]
    run = subprocess.run(
        [sys.executable, "-m", "genai_iface", "conformance", ADAPTER, "--level", "3", "--seed", "1", *only],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    failed = [line.split()[1].rstrip(":") for line in run.stdout.splitlines() if line.startswith("FAILED ")]
    assert sorted(failed) == sorted(WRONG), run.stdout + run.stderr
    assert run.returncode == 1
