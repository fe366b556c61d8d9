# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tutorial's runtime: it stays short, and it reaches its level."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/new_runtime/openvino_runtime.py"


def test_it_stays_under_250_lines() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 250


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_it_reaches_level_3() -> None:
    adapter = "examples.new_runtime.openvino_runtime:OpenVinoAdapter"
    # A process of its own: OpenVINO and torch bring thread pools that are better kept apart.
    command = [sys.executable, "-m", "genai_iface", "conformance", adapter, "--level", "3"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
