# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Each reproduction of a bug report still reproduces, and each report shows the script as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "docs" / "reports"
NEEDED = {"openvino_genai_stop_token": "openvino_genai", "llama_cpp_cut_character": "xllamacpp"}
SCRIPTS = sorted(script for room in ("fusion", "upstream") for script in (REPORTS / room / "repro").glob("*.py"))
PAGES = sorted((REPORTS / "upstream").glob("[0-9]*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_reproduction_reproduces(script, tmp_path):
    packages = ROOT / "examples/harness_transformers_js/node_modules"
    if script.stem.startswith("transformers_js") and not (packages / "@huggingface/transformers").is_dir():
        pytest.skip("transformers.js is not there: npm install --ignore-scripts in examples/harness_transformers_js")
    needed = NEEDED.get(script.stem)
    if needed and find_spec(needed) is None:
        pytest.skip(f"not installed: {needed}")
    run = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NODE_PATH": str(packages)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "reproduced", run.stdout


def test_every_script_is_in_one_bug_report_as_it_is():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for script in SCRIPTS:
        code = script.read_text(encoding="utf-8").split('"""\n', 1)[1].strip("\n")
        assert sum(f"```python\n{code}\n```" in text for text in texts) == 1, script.name
    assert len(PAGES) == len(SCRIPTS) >= 10
