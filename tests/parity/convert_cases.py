# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What conversion is proven on: exported families, each compared with torch after it was converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genai_iface import load_model
from genai_iface.build._families import VOCAB_SIZE, tiny_model
from genai_iface.errors import UnsupportedModelError
from genai_iface.transform.convert.folder import convert_folder
from tests.parity.concat_exports import split_case

__all__ = ["CASES", "QUICK", "REFUSED", "TOLERANCE", "measure"]

TOLERANCE = 1e-5
"""Largest legal difference of a logit from torch's; the logits are around 1."""

QUICK = ("llama-23", "gemma2-18-eager", "gpt2-18", "gemma3-23")

CASES = (
    *QUICK,
    *("llama-18", "llama-yarn-23", "qwen2-23", "qwen3-18", "qwen3_moe-23", "mistral-23", "mixtral-23", "phi-23"),
    *("phi3-23", "gpt2-23", "gpt_neox-18", "gptj-18", "olmo2-23", "smollm3-23", "granite-23", "starcoder2-23"),
    *("stablelm-18", "cohere2-23", "glm4-23", "exaone4-23", "falcon-18", "opt-18"),
)

REFUSED = {"bloom-18": "folded into one axis", "gpt_oss-18": "a learned sink"}

_PROMPTS = (11, 3, 7)
_STEPS = 6


def measure(case: str, exported: Path, out: Path) -> dict[str, Any]:
    """Converts one exported model and compares it with torch.

    Args:
        case: One of the cases.
        exported: The exported folder.
        out: Where the converted one goes.

    Returns:
        What was found, and the largest difference of a logit by backend; or the reason why it was refused.
    """
    try:
        done = convert_folder(exported, out)
    except UnsupportedModelError as error:
        return {"case": case, "refused": error.what}
    reference = tiny_model(split_case(case)[0])
    return {
        "case": case,
        "form": done.layers[0].form,
        "masks": [note.mask for note in done.layers],
        "nodes": [done.nodes_before, done.nodes_after],
        "difference": {backend: _difference(out, reference, backend) for backend in ("numpy", "ort")},
    }


def _difference(folder: Path, reference: Any, backend: str) -> float:
    """The largest difference of a logit, over a ragged prompt and decode steps."""
    import torch

    random = np.random.default_rng(0)
    rows = [random.integers(3, VOCAB_SIZE, count).tolist() for count in _PROMPTS]
    ids = np.zeros((len(rows), max(_PROMPTS)), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    worst = 0.0
    model = load_model(folder, backend=backend)
    try:
        cache = model.create_cache(batch_size=len(rows), capacity=max(_PROMPTS) + _STEPS)
        logits = model.forward(ids, cache, counts=np.array(_PROMPTS))
        for _ in range(_STEPS):
            for index, row in enumerate(rows):
                with torch.inference_mode():
                    wanted = reference(torch.tensor([row])).logits[0, -1].numpy()
                worst = max(worst, float(np.abs(wanted - logits[index, 0]).max()))
                row.append(int(wanted.argmax()))
            logits = model.forward([[row[-1]] for row in rows], cache)
    finally:
        model.close()
    return worst
