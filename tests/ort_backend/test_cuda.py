# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The CUDA path: its parts that need no GPU, and, where one is there, the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from genai_iface import CacheOverflowError, Capability, load_model
from genai_iface_ort import buffers, runtime, session
from genai_iface_ort.buffers import HostBuffer
from genai_iface_ort.device_buffers import DeviceBuffer
from tests.ort_backend.cases import close, numpy_model, ort_model, write

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
gpu = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="the installed onnxruntime has no CUDA")]


def spec(layout: str) -> buffers.BufferSpec:
    axis = 2 if layout == "bnsh" else 1
    return buffers.BufferSpec("past", "present", 2, 4, axis, "float16", None, None)


@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
def test_a_device_buffer_does_what_a_host_buffer_does(layout: str) -> None:
    random = np.random.default_rng(0)
    both: list[Any] = [HostBuffer(spec(layout), 3, 8), DeviceBuffer(spec(layout), 3, 8, ("cpu", 0))]
    order = np.arange(8)
    for row in range(3):
        content = random.standard_normal((2, 8, 4)).astype(np.float16)
        for buffer in both:
            buffer.write(row, order, content)

    def same(rows: int, used: int) -> None:
        assert [buffer.rows for buffer in both] == [rows, rows]
        assert both[0].num_positions == both[1].num_positions
        assert both[0].row_nbytes == both[1].row_nbytes
        for row in range(rows):
            one, other = (buffer.read(row, np.arange(used)) for buffer in both)
            assert np.array_equal(one, other)

    same(3, 8)
    for positions in (12, 6, 10):
        for buffer in both:
            buffer.resize(positions, 6)
        same(3, 6)
    assert both[0].nbytes == both[1].nbytes
    forks = [buffer.copy(6) for buffer in both]
    both = [buffer.taken(np.array([2, 0, 1, 1]), 6) for buffer in both]
    same(4, 6)
    scratch = np.empty(4096, np.uint8)
    for buffer in both:
        buffer.move_rows(np.array([0, 1]), np.array([1, 3]), 2, 6, scratch)
    same(2, 6)
    both = forks
    same(3, 6)


def test_no_room_on_the_device_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise runtime.ORT_ERRORS[0]("out of memory")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", fail)
    with pytest.raises(MemoryError, match="out of memory"):
        DeviceBuffer(spec("bnsh"), 1, 8, ("cpu", 0))


class Elsewhere(tuple[str, int]):
    """The processor's name, but not equal to it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = tuple.__hash__


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches, inputs and logits take the way of devices, which ends on the processor."""
    monkeypatch.setattr(session, "device_index", lambda _: Elsewhere(("cpu", 0)))
    real = onnxruntime.OrtValue.ortvalue_from_numpy
    # As on a device, the value is a copy.
    copying = staticmethod(lambda array, *device: real(array.copy(), *device))
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", copying)


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("level", ["none", "runtime"])
@pytest.mark.parametrize(
    "name",
    ["scatter", "scatter-bsh", "scatter-float16", "scatter-mask", "circular", "shared", "shared-lengths", "concat"],
)
def test_the_way_of_devices_gives_the_same(tmp_path: Path, name: str, level: str) -> None:
    model, reference = ort_model(write(tmp_path, name), level), numpy_model(tmp_path, name)
    assert model.spec.cache.style == "concat" or Capability.GROWTH not in model.capabilities
    caches = [(each, each.create_cache(batch_size=3, capacity=12)) for each in (model, reference)]
    random = np.random.default_rng(0)
    for counts in ([7, 3, 5], [1, 1, 1], [0, 4, 2], [4, 0, 1], [0, 1, 0], [0, 2, 2]):
        ids = random.integers(0, 256, (3, max(counts)))
        actual, expected = (each.forward(ids, cache, counts=np.array(counts)).copy() for each, cache in caches)
        real = np.array(counts) > 0
        close(actual[real], expected[real], name)
    for _, cache in caches:
        cache.reorder([2, 1, 1])
    fork = caches[0][1].fork()
    for row in range(3):
        for layer in range(2):
            for one, other in zip(caches[0][1].read(layer, row), caches[1][1].read(layer, row), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-2 if "16" in name else 1e-5)
    ids = random.integers(0, 256, (3, 1))
    if name != "circular":
        for _, cache in caches:
            cache.rewind_to([5, 4, 3])
        fork.rewind_to([5, 4, 3])
        actual, expected = (each.forward(ids, cache) for each, cache in caches)
        close(actual.copy(), expected, name)
        close(model.forward(ids, fork), expected, name)


def cuda_model(folder: Path, **options: Any) -> Any:
    return load_model(folder, backend="ort", device="cuda", options={"optimize": "runtime", **options})


def greedy(model: Any, rows: int = 3, steps: int = 24) -> np.ndarray:
    cache = model.create_cache(batch_size=rows, capacity=48)
    ids = np.random.default_rng(0).integers(0, 256, (rows, 7))
    logits = [model.forward(ids, cache, counts=np.array([7, 3, 5])[:rows])]
    while len(logits) <= steps:
        logits.append(model.forward(logits[-1][:, -1].argmax(-1)[:, None], cache))
    if model.spec.cache.style != "concat":
        assert cache.update_mode == "in_place"
    return np.concatenate(logits, axis=1)


class TestOnCuda:
    """Unproven until it ran on a GPU."""

    pytestmark = gpu

    @pytest.mark.parametrize("name", ["scatter", "scatter-bsh", "scatter-float16", "scatter-bfloat16", "concat"])
    def test_logits_equal_the_reference(self, tmp_path: Path, name: str) -> None:
        close(greedy(cuda_model(write(tmp_path, name))), greedy(numpy_model(tmp_path, name)), name)

    @pytest.mark.parametrize("name", ["scatter", "scatter-float16"])
    def test_captured_steps_equal_plain_ones(self, tmp_path: Path, name: str) -> None:
        folder = write(tmp_path, name)
        close(greedy(cuda_model(folder, cuda_graph=True)), greedy(cuda_model(folder)), name)

    def test_no_node_runs_on_the_processor(self, tmp_path: Path) -> None:
        cuda_model(write(tmp_path, "scatter-float16", position_ids=True), cpu_fallback=False)

    def test_the_cache_operations_work(self, tmp_path: Path) -> None:
        folder = write(tmp_path, "scatter")
        models = [cuda_model(folder), ort_model(folder)]
        assert Capability.GROWTH not in models[0].capabilities
        caches = [model.create_cache(batch_size=3, capacity=20) for model in models]
        ids = np.random.default_rng(1).integers(0, 256, (3, 6))
        for model, cache in zip(models, caches, strict=True):
            model.forward(ids, cache, counts=np.array([6, 2, 4]))
            cache.rewind_to([5, 2, 3])
            cache.reorder([2, 0, 0])
        forks = [cache.fork() for cache in caches]
        close(*(model.forward(ids, cache) for model, cache in zip(models, caches, strict=True)), "scatter")
        close(*(model.forward(ids, fork) for model, fork in zip(models, forks, strict=True)), "scatter")
        models[0].save_cache(caches[0], tmp_path / "a")
        loaded = models[1].load_cache(tmp_path / "a")
        close(models[1].forward(ids, loaded), models[0].forward(ids, caches[0]), "scatter")
        with pytest.raises(CacheOverflowError):
            models[0].forward(ids, caches[0])
