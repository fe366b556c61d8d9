# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Several threads on one model, each with its own cache; the interpreter lock is free while a step runs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ort_backend.cases import ort_model, write


def generate(model: Any, seed: int) -> list[np.ndarray]:
    """A prompt and 24 greedy steps with growth on the way; all logits."""
    cache = model.create_cache(batch_size=2, capacity=200)
    ids = np.random.default_rng(seed).integers(0, 256, (2, 9))
    logits = [model.forward(ids, cache, counts=np.array([9, 4]))]
    for _ in range(24):
        logits.append(model.forward(logits[-1][:, -1].argmax(-1)[:, None], cache))
    cache.close()
    return logits


@pytest.mark.parametrize("name", ["scatter", "concat", "shared"])
def test_four_threads_give_what_one_gives(tmp_path: Path, name: str) -> None:
    model = ort_model(write(tmp_path, name, max_positions=256), growth_positions=8)
    expected = [generate(model, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: generate(model, seed), range(8)))
    for one, other in zip(expected, results, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_allclose(left, right, atol=2e-5)


def test_other_threads_run_during_a_step(tmp_path: Path) -> None:
    model = ort_model(
        write(tmp_path, "scatter", layers=4, hidden=512, num_heads=8, head_dim=64, max_positions=2048), num_threads=1
    )
    cache = model.create_cache(capacity=2048)
    ids = np.zeros((1, 1024), np.int64)
    model.forward(ids[:, :1], cache, logits="none")
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    model.forward(ids, cache, logits="none")
    end = time.perf_counter()
    done.set()
    thread.join()
    during = [moment for moment in ticks if begin < moment < end]
    assert end - begin > 0.05, "the step is too short to tell"
    # Held, the lock would let no tick through between the first and the last few milliseconds.
    inner = [moment for moment in during if begin + 0.02 < moment < end - 0.02]
    assert len(inner) >= 3
