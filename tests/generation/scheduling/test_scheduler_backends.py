# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching on real caches: every style gives the tokens of each request alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import TextGenerationPipeline, UnsupportedCapabilityError
from tests.marks import needs_ort
from tests.models import write_folder

ORT = pytest.param("ort", marks=needs_ort)

STYLES: dict[str, dict[str, Any]] = {
    "scatter": {},
    "scatter, rank 3": {"layout": "bsh"},
    "scatter, fixed": {"capacity": 48},
    "scatter, position_ids": {"position_ids": True},
    "concat": {"style": "concat"},
    "concat_nodes": {"style": "concat_nodes"},
    "decomposed": {"style": "decomposed"},
    "learned positions": {"positions": "learned"},
}


@pytest.mark.parametrize("backend", ["numpy", ORT])
@pytest.mark.parametrize("fields", STYLES.values(), ids=STYLES)
def test_tokens_are_those_of_each_request_alone(tmp_path: Path, fields: dict[str, Any], backend: str) -> None:
    _compare(write_folder(tmp_path / "model", **fields), backend)


@needs_ort
@pytest.mark.parametrize("optimize", ["none", "runtime"])
def test_shared_buffers(tmp_path: Path, optimize: str) -> None:
    _compare(write_folder(tmp_path / "model", style="shared", position_ids=True), "ort", optimize=optimize)


@needs_ort
@pytest.mark.parametrize("optimize", ["none", "standard"])
def test_levels_of_optimization(tmp_path: Path, optimize: str) -> None:
    _compare(write_folder(tmp_path / "model"), "ort", optimize=optimize)


@pytest.mark.parametrize("backend", ["numpy", ORT])
def test_circular_caches_are_refused(tmp_path: Path, backend: str) -> None:
    folder = write_folder(tmp_path / "model", mode="circular", capacity=16)
    with (
        TextGenerationPipeline(folder, backend=backend) as pipe,
        pytest.raises(UnsupportedCapabilityError, match="wraps around"),
    ):
        pipe.scheduler()


def _compare(folder: Path, backend: str, **options: Any) -> None:
    """Random prompts of many lengths join at random steps, some greedy and some drawn."""
    random = np.random.default_rng(0)
    with TextGenerationPipeline(folder, backend=backend, options=options) as pipe:
        scheduler = pipe.scheduler(slots=3, token_budget=12, capacity=48, thread=False)
        given = []
        for index in range(8):
            prompt = random.integers(3, 250, random.integers(1, 30)).tolist()
            draws = {"temperature": 0.9, "seed": index} if index % 2 else {"temperature": 0.0}
            asked = {"max_new_tokens": int(random.integers(1, 14)), "ignore_eos": True, **draws}
            given.append((scheduler.submit(prompt, **asked), prompt, asked))
            for _ in range(random.integers(0, 5)):
                scheduler.step()
        for request, prompt, asked in given:
            assert request.result().token_ids == pipe.generate(prompt, **asked).token_ids
