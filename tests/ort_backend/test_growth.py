# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Buffers that follow the rows' lengths: growth, shrinking, and what happens when memory runs out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genai_iface import BackendError, Capability
from genai_iface_ort import buffers
from tests.ort_backend.cases import close, ort_model, write

LONG = {"max_positions": 512}


@pytest.fixture(scope="module", params=["scatter", "scatter-bsh", "scatter-fixed", "shared", "circular-and-linear"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    more = LONG if request.param != "scatter-fixed" else {**LONG, "capacity": 512}
    return ort_model(write(tmp_path_factory.mktemp("models"), request.param, **more), "none", growth_positions=16)


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape)


def run(model: Any, cache: Any, ids: np.ndarray, width: int) -> np.ndarray:
    steps = [model.forward(ids[:, at : at + width], cache, logits="all") for at in range(0, ids.shape[1], width)]
    return np.concatenate(steps, axis=1)


def test_memory_follows_the_longest_row(model: Any) -> None:
    assert Capability.GROWTH in model.capabilities
    cache = model.create_cache(batch_size=2, capacity=500)
    sizes = []
    for at in range(0, 120, 10):
        model.forward(tokens(at, 2, 10), cache, counts=np.array([10, 5]), logits="none")
        sizes.append(cache.nbytes)
        positions = 2 * int(cache.lengths.max()) * cache.bytes_per_token
        assert cache.nbytes <= positions + 2 * 26 * cache.bytes_per_token
    assert len(set(sizes)) >= 5
    assert cache.capacity == 500


def test_growth_is_in_steps(model: Any) -> None:
    cache = model.create_cache(capacity=500)
    positions = set()
    for at in range(80):
        model.forward(tokens(at, 1, 1), cache, logits="none")
        positions.add(cache.num_positions)
    assert positions == {16, 32, 48, 64, 80}
    run(model, cache, tokens(0, 1, 300), 1 if model.spec.cache.is_circular else 10)
    # Long rows grow by larger steps.
    assert cache.num_positions % 32 == 0


def test_growth_keeps_every_bit(model: Any) -> None:
    cache = model.create_cache(batch_size=2, capacity=500)
    kept: list[Any] = []
    for at in range(0, 150, 15):
        model.forward(tokens(at, 2, 15), cache, logits="none")
        for key, value in kept:
            now = cache.read(1, 0)
            assert np.array_equal(now[0][:, : key.shape[1]], key)
            assert np.array_equal(now[1][:, : value.shape[1]], value)
        kept.append(cache.read(1, 0))


def test_logits_do_not_depend_on_growth(model: Any) -> None:
    ids = tokens(1, 2, 96)
    if model.spec.cache.is_circular:
        ids = ids[:, :60]
    grown = model.create_cache(batch_size=2, capacity=500)
    small = run(model, grown, ids, 3)
    whole = model.create_cache(batch_size=2, capacity=500)
    close(small, run(model, whole, ids, ids.shape[1]), "scatter")


def test_short_rows_get_short_buffers_again(model: Any) -> None:
    cache = model.create_cache(batch_size=2, capacity=500)
    run(model, cache, tokens(2, 2, 200), 50)
    long = cache.num_positions
    assert long >= 200
    kept = cache.read(1, 1)
    if model.spec.cache.is_circular:
        cache.reset([0])
        cache.reset([1])
    else:
        cache.rewind_to([10, 20])
    model.forward(tokens(3, 2, 1), cache)
    assert cache.num_positions < long / 4
    if not model.spec.cache.is_circular:
        for old, new in zip(kept, cache.read(1, 1), strict=True):
            assert np.array_equal(old[:, :20], new[:, :20])
    # The memory is still there, so growing again needs none.
    nbytes = cache.nbytes
    run(model, cache, tokens(4, 2, 100), 50)
    assert cache.nbytes == nbytes


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_no_memory_to_grow_leaves_the_cache_usable(model: Any, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    ids = tokens(5, 2, 30)
    cache, twin = (model.create_cache(batch_size=2, capacity=500) for _ in range(2))
    for one in (cache, twin):
        model.forward(ids[:, :14], one, logits="none")
    content = [[cache.read(layer, row) for layer in range(2)] for row in range(2)]
    positions = cache.num_positions
    linear = sum(buffer.spec.window is None for buffer in cache.buffers)
    calls, real = 0, np.zeros

    def zeros(*args: Any, **kwargs: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > min(failing, linear - 1):
            raise MemoryError
        array: np.ndarray = real(*args, **kwargs)
        return array

    with monkeypatch.context() as patch:
        patch.setattr(buffers.np, "zeros", zeros)
        with pytest.raises(BackendError, match="No memory to grow the cache") as caught:
            model.forward(ids[:, 14:], cache)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert calls == min(failing, linear - 1) + 1
    assert cache.num_positions == positions
    assert cache.lengths.tolist() == [14, 14]
    for row in range(2):
        for layer in range(2):
            for old, new in zip(content[row][layer], cache.read(layer, row), strict=True):
                assert np.array_equal(old, new)
    assert np.array_equal(model.forward(ids[:, 14:15], cache), model.forward(ids[:, 14:15], twin))
    close(model.forward(ids[:, 15:], cache), model.forward(ids[:, 15:], twin), "scatter")


def test_growth_needs_one_buffer_above_the_final_size(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = model.create_cache(batch_size=2, capacity=500)
    model.forward(tokens(6, 2, 14), cache, logits="none")
    allocated: list[int] = []
    alive: list[int] = []
    real = np.zeros

    def zeros(*args: Any, **kwargs: Any) -> np.ndarray:
        array: np.ndarray = real(*args, **kwargs)
        allocated.append(array.nbytes)
        alive.append(cache.nbytes + array.nbytes)
        return array

    with monkeypatch.context() as patch:
        patch.setattr(buffers.np, "zeros", zeros)
        cache.resize(300)
    assert max(alive) <= cache.nbytes + max(allocated)


def test_reorder_without_memory_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = model.create_cache(batch_size=3, capacity=100)
    model.forward(tokens(7, 3, 9), cache, logits="none")
    content = [cache.read(1, row) for row in range(3)]

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    for order, name in (([2, 0, 1], "empty"), ([0, 0, 1, 1], "zeros")):
        with monkeypatch.context() as patch:
            patch.setattr(buffers.np, name, fail)
            with pytest.raises(BackendError, match="No memory"):
                cache.reorder(order)
        assert cache.batch_size == 3
        for row in range(3):
            for old, new in zip(content[row], cache.read(1, row), strict=True):
                assert np.array_equal(old, new)
