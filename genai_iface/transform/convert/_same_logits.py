# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Compares two model folders by what they compute: ragged prompts, then decode steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface._tolerance import LOGIT_TOLERANCES, relative_difference
from genai_iface.errors import BackendError
from genai_iface.folder import open_folder
from genai_iface.graph import GraphSignature
from genai_iface.protocols import Model
from genai_iface.registry import load_model

__all__ = ["check_same_logits", "check_same_step"]

_PROMPTS = (24, 5, 11)
_STEPS = 4
_ROWS, _NUM_POSITIONS = 2, 12


def check_same_logits(
    source: Path, result: Path, /, *, backend: str = "numpy", tolerance: float | None = None, ragged: bool = True
) -> float:
    """The largest difference of a logit, as a part of the largest one.

    Args:
        source: A model folder.
        result: A folder that should compute the same.
        backend: Where both are run.
        tolerance: The largest legal difference, None for that of the cache's element type.
        ragged: Run the prompts as one ragged batch, otherwise one by one.

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
        batches = [(ids, counts)]
        if not ragged:
            batches = [(ids[row : row + 1, :count], counts[row : row + 1]) for row, count in enumerate(counts)]
        worst = max(_largest_difference(models, *batch, steps) for batch in batches)
        if tolerance is None:
            tolerance = max(LOGIT_TOLERANCES[layer.dtype] for layer in reference.spec.cache.layers)
    finally:
        for model in models:
            model.close()
    return _judged(worst, tolerance)


def _largest_difference(
    models: Sequence[Model[Any]], ids: NDArray[Any], counts: NDArray[Any] | None, steps: int
) -> float:
    """Over a prompt and greedy steps of the first model."""
    rows, width = ids.shape
    caches = [model.create_cache(batch_size=rows, capacity=width + steps) for model in models]
    worst = 0.0
    for _ in range(steps + 1):
        wanted, got = (
            model.forward(ids, cache, counts=counts)[:, 0] for model, cache in zip(models, caches, strict=True)
        )
        worst = max(worst, relative_difference(got, wanted))
        ids, counts = wanted.argmax(-1)[:, None], None
    return worst


def check_same_step(source: Path, result: Path, signature: GraphSignature, /) -> float:
    """The same for two graphs with the same inputs, of which the result has a cache that no backend drives.

    A ragged step after a prompt runs on onnx.reference, which computes the whole buffer.

    Args:
        source: A model folder.
        result: A folder that should compute the same.
        signature: The signature of both; style "scatter".

    Raises:
        BackendError: They differ by more than their element type explains.
    """
    # Nothing but a runtime of its own can drive the result's cache.
    graphs = [ReferenceEvaluator(open_folder(source).load_onnx()), ReferenceEvaluator(str(result / "model.onnx"))]
    random = np.random.default_rng(0)
    names = [signature.logits, *(tensor.present for tensor in signature.cache_tensors)]
    feeds = _empty_caches(signature)
    worst, starts = 0.0, np.zeros(_ROWS, np.int64)
    for counts, width in ((np.array([5, 2]), 5), (np.array([1, 1]), 1)):
        roles = {
            "input_ids": random.integers(0, signature.vocab_size, (_ROWS, width)),
            "position_ids": starts[:, None] + np.arange(width),
            "write_indices": starts,
            "nonpad_kv_seqlen": starts + width,
        }
        feeds |= {name: roles[role].astype(signature.input_dtypes[role]) for role, name in signature.inputs.items()}
        with np.errstate(all="ignore"):
            wanted, got = ([np.asarray(array) for array in graph.run(names, feeds)] for graph in graphs)
        for row, count in enumerate(counts):
            one, other = (run[0][row, :count].astype(np.float32) for run in (wanted, got))
            worst = max(worst, relative_difference(other, one))
        feeds |= {tensor.past: array for tensor, array in zip(signature.cache_tensors, wanted[1:], strict=True)}
        starts = starts + counts
    return _judged(worst, max(LOGIT_TOLERANCES[layer.dtype] for layer in signature.cache.layers))


def _empty_caches(signature: GraphSignature) -> dict[str, NDArray[Any]]:
    """A cache of a few positions for each tensor, by input name."""
    caches = {}
    for tensor in signature.cache_tensors:
        layer = signature.cache.layers[tensor.layer]
        size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
        heads, positions = layer.num_kv_heads, layer.capacity or _NUM_POSITIONS
        shape = (
            (_ROWS, heads, positions, size) if signature.cache.layout == "bnsh" else (_ROWS, positions, heads * size)
        )
        caches[tensor.past] = np.zeros(shape, getattr(ml_dtypes, layer.dtype, layer.dtype))
    return caches


def _judged(worst: float, tolerance: float) -> float:
    """The difference, if it is small enough."""
    if not worst <= tolerance:
        raise BackendError(
            f"The converted model computes something else: a logit is off by {worst:.1e} of the largest one, "
            f"{tolerance:.0e} is allowed",
            remedy="This is a fault of the conversion, nothing was written; please report it with the source model.",
        )
    return worst
