# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Updates in place: proven, reported, and warned about where they do not happen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface_ort import CacheCopyWarning
from genai_iface_ort.steps.proof import Probe
from tests.ort_backend.cases import close, ort_model, write

STYLES = ("scatter", "scatter-bsh", "scatter-float16", "scatter-bfloat16", "circular", "shared")


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape)


@pytest.mark.parametrize("level", ["none", "runtime"])
@pytest.mark.parametrize("name", STYLES)
def test_a_step_writes_its_tokens_and_nothing_else(tmp_path: Path, name: str, level: str) -> None:
    model = ort_model(write(tmp_path, name), level)
    cache = model.create_cache(batch_size=2, capacity=40)
    model.forward(tokens(0, 2, 4), cache)
    addresses = [buffer.address for buffer in cache.buffers]
    for buffer in cache.buffers:
        buffer.blocks[:, :, 5:] = 1
    before = [buffer.blocks.copy() for buffer in cache.buffers]
    model.forward(tokens(1, 2, 1), cache)
    assert [buffer.address for buffer in cache.buffers] == addresses
    assert cache.update_mode == "in_place"
    for old, buffer in zip(before, cache.buffers, strict=True):
        changed = (old != buffer.blocks).any(axis=(0, 1, 3))
        assert changed.tolist() == [position == 4 for position in range(buffer.num_positions)]


def test_a_copy_is_reported_warned_about_once_and_harmless(tmp_path: Path) -> None:
    folder = write(tmp_path, "scatter")
    shared, copying = ort_model(folder, "none"), ort_model(folder, "none", share_buffers=False)
    caches = [(model, model.create_cache(batch_size=2, capacity=40)) for model in (shared, copying)]
    with pytest.warns(CacheCopyWarning, match="share_buffers") as caught:
        first = [model.forward(tokens(0, 2, 6), cache) for model, cache in caches]
    assert len(caught) == 1
    close(first[1], first[0], "scatter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(1, 6):
            results = [model.forward(tokens(seed, 2, 1), cache) for model, cache in caches]
            close(results[1], results[0], "scatter")
    assert [cache.update_mode for _, cache in caches] == ["in_place", "copied"]
    for row in range(2):
        for one, other in zip(caches[0][1].read(1, row), caches[1][1].read(1, row), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_runtime_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = ort_model(write(tmp_path, "scatter"), "none", share_buffers=False)
    cache = model.create_cache(capacity=40)
    with pytest.warns(CacheCopyWarning):
        model.forward(tokens(0, 1, 6), cache)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["nothing written", "too much written", None])
def test_the_proof_sees_faults(tmp_path: Path, fault: str | None) -> None:
    model = ort_model(write(tmp_path, "scatter"), "none")
    cache = model.create_cache(capacity=40)
    probe = Probe(cache.buffers, 0, 0, 3)
    for buffer in cache.buffers if fault != "nothing written" else cache.buffers[1:]:
        buffer.blocks[0, :, : 4 if fault == "too much written" else 3] = 2
    assert probe.passed() == (fault is None)


def test_the_proof_leaves_no_trace(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "scatter"), "none")
    cache: Any = model.create_cache(capacity=40)
    assert not cache.is_proven
    model.forward(tokens(0, 1, 3), cache)
    assert cache.is_proven
    assert all((buffer.blocks[:, :, 3:] == 0).all() for buffer in cache.buffers)
