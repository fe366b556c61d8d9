# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.integrations.exports OUT FAMILY``: a tiny decoder as Transformers' exporter saves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["export_apart"]


def export_apart(out: Path, family: str) -> Path:
    """Exports in a process of its own, for torch warns of its own internals.

    Raises:
        RuntimeError: The exporter failed; the message is its last line.
    """
    command = [sys.executable, "-m", "tests.integrations.exports", str(out), family]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1][:300])
    return out


def export(out: Path, family: str) -> None:
    """Exports what takes the prompt and tokens, and keeps the export's own names."""
    import torch
    from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter
    from transformers.exporters.utils import decompose_for_generation

    from genai_iface.build._families import tiny_model

    network = tiny_model(family)
    ids, mask = torch.arange(3, 13).reshape(2, 5), torch.ones(2, 5, dtype=torch.int64)
    mask[0, 0] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    stage = decompose_for_generation(network, inputs, multi_token_decode=True)["decode"]
    exported = OnnxExporter().export(*stage, OnnxConfig(dynamic=True))
    components = {"decode": exported.components["model"]}
    ExportedModel(components, exported.export_format, config=network.config).save_pretrained(out)


if __name__ == "__main__":
    export(Path(sys.argv[1]), sys.argv[2])
