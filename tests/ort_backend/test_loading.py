# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Devices, options, what is refused, and rewritten graphs kept on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from genai_iface import (
    Backend,
    BackendError,
    Capability,
    InvalidInputError,
    Model,
    UnsupportedModelError,
    load_backend,
    load_model,
)
from genai_iface_ort import session
from genai_iface_ort.lowering import prepare
from tests.ort_backend.cases import close, numpy_model, ort_model, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models"), "scatter-fixed")


def logits(model: Any) -> np.ndarray:
    result: np.ndarray = model.forward(np.array([[1, 2, 3], [4, 5, 6]]), model.create_cache(batch_size=2))
    return result


def kinds(graph: onnx.GraphProto) -> Iterator[str]:
    """The operators of a graph, those in its subgraphs included."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from kinds(attribute.g)


def test_info_is_about_the_installed_runtime() -> None:
    backend: Backend = load_backend("ort")
    info = backend.info()
    assert (info.name, info.runtime, info.runtime_version) == ("ort", "onnxruntime", onnxruntime.__version__)
    assert info.capabilities == frozenset(Capability) - {Capability.GENERATOR}


def test_devices_are_those_of_the_runtime() -> None:
    devices = load_backend("ort").devices()
    assert devices[0].identifier == "cpu"
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert any(device.kind == "cuda" for device in devices) == has_cuda


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_missing_cuda_names_the_package_that_has_it(folder: Path, device: str) -> None:
    with pytest.raises(InvalidInputError, match=r'pip install "genai-iface\[gpu\]"'):
        load_model(folder, backend="ort", device=device)


@pytest.mark.parametrize("device", ["tpu", "cpu:1", ""])
def test_unknown_devices_are_refused(folder: Path, device: str) -> None:
    with pytest.raises(InvalidInputError, match="There is no device"):
        load_model(folder, backend="ort", device=device)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "none"},
        {"optimize": "all"},
        {"optimize": None},
        {"num_threads": -1},
        {"num_threads": 1.5},
        {"num_threads": True},
        {"growth_positions": -1},
        {"session_options": []},
        {"session_options": {1: 2}},
        {"session_options": {"no_such_attribute": 1}},
        {"session_options": {"add_session_config_entry": 1}},
        {"session_options": {"intra_op_num_threads": "many"}},
        {"provider_options": "x"},
        {"cache_dir": 3},
        {"share_buffers": 1},
        {"cuda_graph": "yes"},
        {"cuda_graph": True},
    ],
)
def test_bad_options_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_model(folder, backend="ort", options=options)
    assert caught.value.remedy


def test_session_options_reach_the_session(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "optimized.onnx"
    settings = {
        "optimized_model_filepath": str(file),
        "graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "session.intra_op.allow_spinning": 0,
    }
    model: Model[Any] = load_model(folder, backend="ort", options={"session_options": settings, "optimize": "none"})
    found = set(kinds(onnx.load(file).graph))
    assert "TensorScatter" in found
    assert "GroupQueryAttention" not in found
    assert model.spec.cache.style == "scatter"


def test_levels_change_the_graph_not_the_results(folder: Path, tmp_path: Path) -> None:
    found, results = [], []
    for level in ("none", "standard", "runtime"):
        file = tmp_path / f"{level}.onnx"
        model = load_model(
            folder,
            backend="ort",
            options={"optimize": level, "session_options": {"optimized_model_filepath": str(file)}},
        )
        found.append(set(kinds(onnx.load(file).graph)))
        results.append(logits(model))
    assert "GatherND" not in found[0]
    assert "GatherND" in found[1]
    assert "TensorScatter" in found[1]
    assert "GroupQueryAttention" in found[2]
    close(results[1], results[0], "scatter")
    close(results[2], results[0], "scatter")


def test_notes_say_what_was_done(folder: Path) -> None:
    notes = ort_model(folder).notes
    assert any(note.startswith("symbolic-capacity: applied") for note in notes)
    assert any(note.startswith("group-query-attention: applied") for note in notes)


def test_a_capacity_that_something_depends_on_stays(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "scatter-fixed"), "none")
    assert Capability.GROWTH in model.capabilities
    cache = model.create_cache(batch_size=2)
    assert cache.capacity == 48
    # The mask of this graph is made for exactly as many positions.
    folder = write(tmp_path, "scatter-mask", capacity=48)
    graph = onnx.load(folder / "model.onnx")
    mask = next(value for value in graph.graph.input if value.name == "attention_mask")
    mask.type.tensor_type.shape.dim[1].dim_value = 48
    onnx.save(graph, folder / "model.onnx")
    fixed = ort_model(folder, "none")
    assert Capability.GROWTH not in fixed.capabilities
    reference = numpy_model(tmp_path, "scatter-mask")
    ids = np.random.default_rng(0).integers(0, 256, (2, 44))
    caches = [(each, each.create_cache(batch_size=2, capacity=48)) for each in (fixed, reference)]
    counts = np.array([44, 40])
    close(*(each.forward(ids, cache, counts=counts) for each, cache in caches), "scatter")
    for counts in ([4, 1], [0, 3], [0, 4]):
        close(*(each.forward(ids[:, :4], cache, counts=counts)[1:] for each, cache in caches), "scatter")
    assert caches[0][1].lengths.tolist() == [48, 48]


def test_a_mask_over_a_full_buffer_has_no_holes(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "scatter-mask"), "none", growth_positions=4)
    reference = numpy_model(tmp_path, "scatter-mask")
    caches = [(each, each.create_cache(capacity=40)) for each in (model, reference)]
    for seed in range(30):
        ids = np.random.default_rng(seed).integers(0, 256, (1, 1))
        close(*(each.forward(ids, cache) for each, cache in caches), "scatter")


def test_bfloat16_in_the_shared_style_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no bfloat16 kernel"):
        ort_model(write(tmp_path, "shared", dtype="bfloat16"))


def test_the_runtimes_own_errors_are_wrapped(tmp_path: Path) -> None:
    folder = write(tmp_path, "scatter")
    graph = onnx.load(folder / "model.onnx")
    graph.graph.node[-1].attribute.append(onnx.helper.make_attribute("unknown", 1))
    onnx.save(graph, folder / "model.onnx")
    with pytest.raises(BackendError) as caught:
        ort_model(folder, "none")
    assert caught.value.__cause__ is not None
    assert "\n" not in caught.value.what


def test_a_failing_run_is_wrapped_and_leaves_the_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ort_model(write(tmp_path, "scatter"))
    cache = model.create_cache(capacity=40)
    before = model.forward(np.array([[1, 2, 3]]), cache)

    def fail(*_: object) -> None:
        raise RuntimeError("Error in execution: something")

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
        with pytest.raises(BackendError, match="something"):
            model.forward(np.array([[4]]), cache)
    assert cache.lengths.tolist() == [3]
    cache.rewind_to(0)
    assert np.array_equal(model.forward(np.array([[1, 2, 3]]), cache), before)


def test_a_closed_model_says_so(folder: Path) -> None:
    model = ort_model(folder)
    cache = model.create_cache()
    model.close()
    model.close()
    for call in (lambda: model.forward(np.array([[1]]), cache), model.create_cache):
        with pytest.raises(InvalidInputError, match="closed"):
            call()


@pytest.mark.parametrize("name", ["scatter-fixed", "scatter-bfloat16", "scatter-external-data", "scatter-int4"])
def test_large_rewritten_graphs_go_by_way_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder, temporary = write(tmp_path, name), tmp_path / "temporary"
    temporary.mkdir()
    expected = logits(ort_model(folder))
    monkeypatch.setattr(session, "_INLINE_LIMIT", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    written: list[Path] = []
    real = session.write_graph

    def spy(model: Any, place: Path) -> Path:
        written.append(place)
        return real(model, place)

    monkeypatch.setattr(session, "write_graph", spy)
    close(logits(ort_model(folder)), expected, name)
    assert [place.parent for place in written] == [temporary]
    assert not list(temporary.iterdir())

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(session, "write_graph", full)
    with pytest.raises(BackendError, match="cannot be written to disk: No space left"):
        ort_model(folder)


@pytest.mark.parametrize("name", ["scatter-fixed", "scatter-bfloat16", "scatter-external-data", "concat", "shared"])
def test_rewritten_graphs_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder, store = write(tmp_path, name), tmp_path / "store"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    plain, first = ort_model(folder), ort_model(folder, cache_dir=store)
    (place,) = store.iterdir()

    def never(*_: object) -> None:
        raise AssertionError("rewritten again")

    monkeypatch.setattr(prepare, "_rewrite", never)
    second = ort_model(folder, cache_dir=str(store))
    assert list(store.iterdir()) == [place]
    assert second.notes == first.notes == plain.notes
    results = [logits(model) for model in (plain, first, second)]
    close(results[1], results[0], name)
    assert np.array_equal(results[1], results[2])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_other_weights_and_options_are_stored_apart(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one, other = write(tmp_path / "one", "scatter"), write(tmp_path / "other", "scatter", seed=1)
    ort_model(one, cache_dir=store)
    ort_model(one, "standard", cache_dir=store)
    results = [logits(ort_model(other, cache_dir=store)), logits(ort_model(other))]
    close(*results, "scatter")
    assert len(list(store.iterdir())) == 3


def test_a_broken_or_unusable_store_is_an_error(tmp_path: Path) -> None:
    folder, store = write(tmp_path, "scatter"), tmp_path / "store"
    ort_model(folder, cache_dir=store)
    (place,) = store.iterdir()
    (place / "graph.json").write_text("{", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="broken"):
        ort_model(folder, cache_dir=store)
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="cannot be stored"):
        ort_model(folder, cache_dir=blocked)
