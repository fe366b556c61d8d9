# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Compares two model folders by what they compute: ragged prompts, then decode steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import BackendError
from genai_iface.registry import load_model

__all__ = ["TOLERANCES", "check_same_logits"]

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest legal difference of a logit by the cache's element type, as a part of the largest logit."""

_PROMPTS = (24, 5, 11)
_STEPS = 4


def check_same_logits(source: Path, result: Path, /, *, backend: str = "numpy") -> float:
    """The largest difference of a logit, as a part of the largest one.

    Args:
        source: A model folder.
        result: A folder that should compute the same.
        backend: Where both are run.

    Raises:
        BackendError: They differ by more than their element type explains.
        GenAIError: The backend cannot run one of them.
    """
    models = [load_model(folder, backend=backend) for folder in (source, result)]
    try:
        reference = models[0]
        limit = min(model.spec.context_length or 10**6 for model in models) - _STEPS
        counts = np.minimum(_PROMPTS, max(limit, 1))
        steps = _STEPS if limit > 0 else 0
        ids = np.random.default_rng(0).integers(0, reference.spec.vocab_size, (len(counts), int(counts.max())))
        caches = [model.create_cache(batch_size=len(counts), capacity=int(counts.max()) + steps) for model in models]
        worst = 0.0
        given: NDArray[Any] | None = counts
        for _ in range(steps + 1):
            wanted, got = (
                model.forward(ids, cache, counts=given)[:, 0] for model, cache in zip(models, caches, strict=True)
            )
            worst = max(worst, float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30)))
            ids, given = wanted.argmax(-1)[:, None], None
        tolerance = max(TOLERANCES[layer.dtype] for layer in reference.spec.cache.layers)
    finally:
        for model in models:
            model.close()
    if not worst <= tolerance:
        raise BackendError(
            f"The converted model computes something else: a logit is off by {worst:.1e} of the largest one, "
            f"{tolerance:.0e} is allowed",
            remedy="This is a fault of the conversion, nothing was written; please report it with the source model.",
        )
    return worst
