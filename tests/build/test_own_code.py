# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Code that a checkpoint brings, or names, is never run, whatever stands on standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genai_iface import UnsupportedModelError, load_model
from tests.parity.checkpoints import make_checkpoint

pytestmark = pytest.mark.parity

BUILD = [sys.executable, "-m", "genai_iface", "build"]
LOAD = [
    sys.executable,
    "-c",
    "import sys; from genai_iface import load_model; load_model(sys.argv[1], backend='transformers')",
]


def write(folder: Path, mark: Path, **config: Any) -> Path:
    """A checkpoint whose configuration and model come with code that leaves a mark."""
    make_checkpoint("llama", folder)
    path = folder / "config.json"
    auto_map = {"AutoConfig": "conf_h.HConfig", "AutoModelForCausalLM": "mod_h.HModel"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": auto_map, **config}))
    ran = f"open({str(mark)!r}, 'a').write('ran')\n"
    (folder / "conf_h.py").write_text(
        f"from transformers import LlamaConfig\n{ran}class HConfig(LlamaConfig):\n    model_type = 'homemade'\n"
    )
    (folder / "mod_h.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .conf_h import HConfig\n"
        f"{ran}class HModel(LlamaForCausalLM):\n    config_class = HConfig\n"
    )
    return folder


def run(command: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Says yes to whatever is asked."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, input="y\n" * 6, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("way", ["build", "backend"])
def test_a_model_type_of_its_own_is_refused(way: str, tmp_path: Path) -> None:
    mark = tmp_path / "RAN"
    folder = write(tmp_path / "checkpoint", mark, model_type="homemade")
    command = [*BUILD, str(folder), str(tmp_path / "out")] if way == "build" else [*LOAD, str(folder)]
    done = run(command, tmp_path)
    assert not mark.exists()
    assert done.returncode == (2 if way == "build" else 1)
    assert done.stdout == ""
    for word in ("auto_map", "AutoConfig is conf_h.HConfig", "never run", "'homemade'", "newer Transformers"):
        assert word in done.stderr
    # Transformers' own advice is to allow it.
    assert "trust_remote_code" not in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("way", ["build", "backend"])
def test_code_that_is_not_needed_is_ignored(way: str, tmp_path: Path) -> None:
    mark = tmp_path / "RAN"
    folder = write(tmp_path / "checkpoint", mark)
    command = [*BUILD, str(folder), str(tmp_path / "out")] if way == "build" else [*LOAD, str(folder)]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


def test_attention_of_a_repository_is_refused(tmp_path: Path) -> None:
    part = {"attn_implementation": "somebody/kernels"}
    folder = write(tmp_path / "checkpoint", tmp_path / "RAN", text_config=part)
    with pytest.raises(UnsupportedModelError, match=r"never fetched or run .*somebody/kernels"):
        load_model(folder, backend="transformers")
