# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Caches on disk: written by one backend, read by any, refused where they do not belong."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from genai_iface import InvalidInputError, SupportsSave, load_model
from genai_iface.errors import OutputError
from tests.ort_backend.cases import close, ort_model, write

NAMES = ("scatter", "scatter-bsh", "scatter-float16", "scatter-bfloat16", "circular", "circular-and-linear", "concat")


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape)


def filled(model: Any) -> Any:
    cache = model.create_cache(batch_size=3, capacity=60)
    model.forward(tokens(0, 3, 9), cache, counts=np.array([9, 4, 0]))
    for seed in range(12):
        model.forward(tokens(seed, 3, 1), cache, counts=np.array([1, 1, 0]))
    return cache


@pytest.mark.parametrize("reader", ["ort", "numpy"])
@pytest.mark.parametrize("writer", ["ort", "numpy"])
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_moves_between_backends(tmp_path: Path, name: str, writer: str, reader: str) -> None:
    folder, file = write(tmp_path, name), tmp_path / "a.safetensors"
    models: dict[str, Any] = {"ort": ort_model(folder), "numpy": load_model(folder, backend="numpy")}
    assert all(isinstance(model, SupportsSave) for model in models.values())
    cache = filled(models[writer])
    models[writer].save_cache(cache, file)
    loaded = models[reader].load_cache(file, capacity=60)
    assert loaded.lengths.tolist() == [21, 16, 0]
    for row in range(3):
        for layer in range(2):
            for old, new in zip(cache.read(layer, row), loaded.read(layer, row), strict=True):
                assert old.dtype == new.dtype
                assert np.array_equal(old, new)
    step = tokens(99, 3, 1)
    close(models[reader].forward(step, loaded), models[writer].forward(step, cache), name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", name]


def test_shared_buffers_are_saved_too(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "shared"))
    cache = filled(model)
    model.save_cache(cache, tmp_path / "a")
    loaded = model.load_cache(tmp_path / "a")
    step = tokens(99, 3, 1)
    assert np.array_equal(model.forward(step, loaded), model.forward(step, cache))


def test_a_fresh_process_goes_on(tmp_path: Path) -> None:
    folder, file = write(tmp_path, "scatter"), tmp_path / "a.safetensors"
    model = ort_model(folder)
    cache = filled(model)
    model.save_cache(cache, file)
    code = (
        "import sys, numpy as np; from genai_iface import load_model\n"
        "model = load_model(sys.argv[1], backend='ort'); cache = model.load_cache(sys.argv[2])\n"
        "np.save(sys.argv[3], model.forward(np.array([[5], [6], [7]]), cache))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(file), str(tmp_path / "out.npy")], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.forward(np.array([[5], [6], [7]]), cache))


@pytest.mark.parametrize("change", [{"seed": 1}, {"dtype": "float16"}, {"layout": "bsh"}])
def test_a_cache_of_another_model_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    model = ort_model(write(tmp_path / "one", "scatter"))
    model.save_cache(filled(model), tmp_path / "a")
    other = ort_model(write(tmp_path / "other", "scatter", **change))
    with pytest.raises(InvalidInputError, match="another model"):
        other.load_cache(tmp_path / "a")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "scatter"))
    file = tmp_path / "a"
    model.save_cache(filled(model), file)
    whole = file.read_bytes()
    for data in (b"", whole[:100], whole[:-1], whole[8:], b"\xff" * 64):
        file.write_bytes(data)
        with pytest.raises(InvalidInputError):
            model.load_cache(file)
    with pytest.raises(InvalidInputError, match="not a cache file"):
        model.load_cache(tmp_path / "missing")


def test_lengths_that_do_not_fit_the_tensors_are_refused(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "scatter"))
    file = tmp_path / "a"
    model.save_cache(filled(model), file)
    whole = file.read_bytes()
    assert b"[21, 16, 0]" in whole
    for lengths in (b"[20, 16, 0]", b"[21, 16, 5]", b"[21, -6, 0]", b"[21, 16,  ]", b"[999999999]"):
        file.write_bytes(whole.replace(b"[21, 16, 0]", lengths))
        with pytest.raises(InvalidInputError):
            model.load_cache(file)


@pytest.mark.parametrize("lengths", ["[" * 100_000, "[" + "9" * 5000 + "]", "[NaN]", "[1e999999]", '["\\ud800"]', "{}"])
def test_lengths_that_are_no_list_of_numbers_are_refused(tmp_path: Path, lengths: str) -> None:
    model = ort_model(write(tmp_path, "scatter"))
    file = tmp_path / "a"
    model.save_cache(filled(model), file)
    with safetensors.safe_open(file, framework="np") as handle:
        metadata = {**handle.metadata(), "lengths": lengths}
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - it is no dictionary
    safetensors.numpy.save_file(tensors, file, metadata=metadata)
    with pytest.raises(InvalidInputError, match="contains no valid lengths"):
        model.load_cache(file)


def test_a_capacity_below_the_longest_row_is_refused(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "scatter"))
    model.save_cache(filled(model), tmp_path / "a")
    with pytest.raises(InvalidInputError, match="21 tokens"):
        model.load_cache(tmp_path / "a", capacity=20)
    assert model.load_cache(tmp_path / "a", capacity=21).capacity == 21


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ort_model(write(tmp_path, "scatter"))
    file = tmp_path / "a"
    model.save_cache(filled(model), file)
    whole = file.read_bytes()

    def fail(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OutputError, match="disk full"):
        model.save_cache(filled(model), file)
    assert file.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "scatter"]


def test_closed_and_foreign_caches_are_refused(tmp_path: Path) -> None:
    model, other = ort_model(write(tmp_path, "scatter")), ort_model(tmp_path / "scatter")
    cache = filled(model)
    with pytest.raises(InvalidInputError, match="not made by this model"):
        other.save_cache(cache, tmp_path / "a")
    cache.close()
    with pytest.raises(InvalidInputError, match="closed"):
        model.save_cache(cache, tmp_path / "a")
