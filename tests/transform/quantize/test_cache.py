# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Caches of int8: scales from calibration, the graph, and both backends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface import load_model
from genai_iface.errors import CacheOverflowError, InvalidInputError, UnsupportedCapabilityError, UnsupportedModelError
from genai_iface.folder import open_folder
from genai_iface.transform.quantize._cache import CacheRange, QuantizeCache
from genai_iface.transform.quantize.calibration import calibrate, default_text, random_tokens, windows_of
from tests.models import write_folder

TOKENS = random_tokens(256, 60)
FORMS: dict[str, dict[str, Any]] = {
    "bnsh": {},
    "bsh": {"layout": "bsh"},
    "uneven": {"num_kv_heads": [2, 1], "head_dim": [8, 16], "v_head_dim": [16, 8]},
    "fixed": {"capacity": 48},
    "anonymous": {"anonymous": True},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16-bsh": {"dtype": "bfloat16", "layout": "bsh"},
    "circular": {"mode": "circular", "capacity": 16},
}
TOLERANCES = {"float16": 2e-2, "bfloat16": 2e-1}


def int8_folder(source: Path, target: Path, scales: Any = "auto") -> Path:
    """The folder with an int8 cache, calibrated on the tokens that the tests run."""
    folder = open_folder(source)
    float_model = load_model(source)
    model = folder.load_ir()
    rewrite = QuantizeCache(
        folder.signature, calibrate(float_model, [TOKENS[:20], TOKENS[20:40], TOKENS[40:]]), scales=scales
    )
    rewrite(model)
    assert rewrite.note.count == 2 * len(folder.spec.cache.layers)
    target.mkdir()
    ir.save(model, target / "model.onnx")
    onnx.checker.check_model(target / "model.onnx", full_check=True)
    return target


def steps(model: Any, rows: int = 3) -> tuple[list[np.ndarray], Any]:
    """A ragged prefill, a chunk with an idle row, four decode steps: every row's last logits."""
    cache = model.create_cache(batch_size=rows)
    ids = np.array(TOKENS).reshape(3, 20)[:rows]
    plan = [(ids[:, :7], [7, 3, 5]), (ids[:, 7:9], [2, 0, 1]), *((ids[:, i : i + 1], [1, 1, 1]) for i in range(9, 13))]
    if model.spec.cache.is_circular:
        plan = [(ids[:, i : i + 1], [1, 1, 1]) for i in range(20)]
    found = []
    for part, counts in plan:
        logits = model.forward(part, cache, counts=np.array(counts[:rows]))
        found.append(logits[np.array(counts[:rows]) > 0])
    return found, cache


@pytest.fixture(scope="module", params=FORMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    path = tmp_path_factory.mktemp("cache")
    source = write_folder(path / "float", **FORMS[request.param])
    return request.param, source, int8_folder(source, path / "int8")


def test_the_folder_reader_sees_an_int8_cache(made: tuple[str, Path, Path]) -> None:
    name, source, target = made
    before, after = open_folder(source).signature, open_folder(target).signature
    assert {layer.dtype for layer in after.cache.layers} == {"int8"}
    item = 2 if "float16" in name else 4
    assert after.cache.bytes_per_token * item == before.cache.bytes_per_token
    assert after.inputs == before.inputs
    assert after.cache_tensors == before.cache_tensors
    for one, other in zip(before.cache.layers, after.cache.layers, strict=True):
        assert (one.num_kv_heads, one.key_head_dim, one.value_head_dim) == (
            other.num_kv_heads,
            other.key_head_dim,
            other.value_head_dim,
        )
        assert (one.mode, one.capacity) == (other.mode, other.capacity)
    reasons = [item.reason for item in after.evidence if item.role.startswith("past key")]
    assert all("through" in reason and "DequantizeLinear" in reason for reason in reasons)


def test_both_backends_compute_the_same_and_close_to_floats(made: tuple[str, Path, Path]) -> None:
    name, source, target = made
    wanted, _ = steps(load_model(source))
    on_numpy, numpy_cache = steps(load_model(target))
    on_ort, ort_cache = steps(load_model(target, backend="ort"))
    assert numpy_cache.update_mode == ort_cache.update_mode == "in_place"
    assert np.array_equal(numpy_cache.lengths, ort_cache.lengths)
    scale = max(float(np.abs(part).max()) for part in wanted)
    # A number between two integers may be rounded to either; that is one part in 127 of one element.
    tolerance = TOLERANCES.get(name.split("-")[0], 5e-3) * scale
    for one, other, float_one in zip(on_numpy, on_ort, wanted, strict=True):
        assert np.abs(one - other).max() <= tolerance
        assert np.abs(one - float_one).max() <= 0.05 * scale + tolerance
    assert any(np.abs(one - float_one).max() > 0 for one, float_one in zip(on_numpy, wanted, strict=True))
    for layer in range(2):
        for one, other in zip(numpy_cache.read(layer, 0), ort_cache.read(layer, 0), strict=True):
            assert one.dtype == other.dtype == np.int8
            spread = np.abs(one.astype(int) - other.astype(int))
            assert spread.max() <= (1 if name not in TOLERANCES and "bfloat16" not in name else 8)
            assert np.abs(one).max() > 30  # the range is used


@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_cache_operations_move_integers_only(made: tuple[str, Path, Path], backend: str) -> None:
    _, _, target = made
    model = load_model(target, backend=backend)
    _, cache = steps(model)
    held = [cache.read(layer, row) for layer in range(2) for row in range(3)]
    again = cache.fork()
    again.reorder(np.array([2, 0, 0]))
    for layer in range(2):
        for row, origin in enumerate((2, 0, 0)):
            for one, other in zip(again.read(layer, row), held[3 * layer + origin], strict=True):
                assert np.array_equal(one, other)
    if model.spec.cache.is_circular:
        return  # has forgotten what a rewind would need
    before = cache.lengths
    wanted = model.forward(np.array([[9], [8], [7]]), cache)
    cache.rewind_to(before)
    assert np.array_equal(model.forward(np.array([[9], [8], [7]]), cache), wanted)


def test_saved_caches_go_from_backend_to_backend(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, _, target = made
    on_numpy, on_ort = load_model(target), load_model(target, backend="ort")
    _, cache = steps(on_numpy)
    on_numpy.save_cache(cache, tmp_path / "cache")
    loaded = on_ort.load_cache(tmp_path / "cache")
    for row in range(3):
        for one, other in zip(cache.read(1, row), loaded.read(1, row), strict=True):
            assert np.array_equal(one, other)
    on_ort.save_cache(loaded, tmp_path / "again")
    back = on_numpy.load_cache(tmp_path / "again")
    for one, other in zip(cache.read(0, 2), back.read(0, 2), strict=True):
        assert np.array_equal(one, other)
    tensors = sum(part.nbytes for row in range(3) for layer in range(2) for part in cache.read(layer, row))
    assert tensors < (tmp_path / "cache").stat().st_size < tensors + 8192


@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_growth_and_capacity(backend: str, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", max_positions=600)
    int8 = load_model(int8_folder(source, tmp_path / "int8"), backend=backend)
    floats = load_model(source, backend=backend)
    caches = [model.create_cache() for model in (int8, floats)]
    ids = np.array([random_tokens(256, 300)])
    for model, cache in zip((int8, floats), caches, strict=True):
        small = cache.nbytes
        model.forward(ids[:, :100], cache)
        model.forward(ids[:, 100:], cache)
        assert cache.nbytes > small
    assert caches[1].nbytes >= 4 * caches[0].nbytes  # and more, where float buffers grow in larger steps
    full = int8.create_cache(capacity=4)
    with pytest.raises(CacheOverflowError):
        int8.forward(ids[:, :5], full)
    assert full.lengths[0] == 0


@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
@pytest.mark.parametrize("scales", ["head", "channel"])
def test_scales_come_from_the_ranges(layout: Any, scales: Any, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", layout=layout)
    folder = open_folder(source)
    random = np.random.default_rng(0)
    ranges = [CacheRange(*(random.random((2, 8), np.float32) + 0.5 for _ in range(2))) for _ in range(2)]
    model = folder.load_ir()
    rewrite = QuantizeCache(folder.signature, ranges, scales=scales)
    rewrite(model)
    assert f"scale for each {scales}" in rewrite.note.reason
    nodes = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    assert len(nodes) == 4
    seen = ranges[1].value
    wanted = {
        ("bnsh", "head"): (1, seen.max(axis=1)),
        ("bnsh", "channel"): (3, seen.max(axis=0)),
        ("bsh", "head"): (2, seen.max(axis=1).repeat(8)),
        ("bsh", "channel"): (2, seen.reshape(-1)),
    }[layout, scales]
    last = next(n for n in nodes if n.inputs[1].name.startswith("quantized.past_key_values.1.value"))
    assert last.attributes["axis"].as_int() == wanted[0]
    np.testing.assert_allclose(last.inputs[1].const_value.numpy(), wanted[1] / 127, rtol=1e-6)


@pytest.mark.parametrize("kind", ["head", "channel"])
def test_auto_takes_what_gives_smaller_steps(kind: str, tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path / "float"))
    seen = np.full((2, 8), 0.1, np.float32)
    # One loud head, or one loud channel of all heads.
    seen[(1, slice(None)) if kind == "head" else (slice(None), 3)] = 10
    rewrite = QuantizeCache(folder.signature, [CacheRange(seen, seen)] * 2)
    rewrite(folder.load_ir())
    assert rewrite.note.reason == f"4 cache tensors to int8, 4 with a scale for each {kind}"


def test_what_exceeds_the_range_is_clipped(tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path / "float"))
    tiny = CacheRange(*(np.full((2, 8), 0.01, np.float32) for _ in range(2)))
    model = folder.load_ir()
    QuantizeCache(folder.signature, [tiny] * 2)(model)
    (tmp_path / "int8").mkdir()
    ir.save(model, tmp_path / "int8" / "model.onnx")
    for backend in ("numpy", "ort"):
        loaded = load_model(tmp_path / "int8", backend=backend)
        cache = loaded.create_cache()
        loaded.forward([TOKENS[:8]], cache)
        key, _ = cache.read(0, 0)
        assert (key.min(), key.max()) == (-128, 127)


@pytest.mark.parametrize("form", [{}, {"mode": "circular", "capacity": 8}])
def test_calibration_sees_the_largest_magnitudes(form: dict[str, Any], tmp_path: Path) -> None:
    """Also those of tokens that a circular cache has forgotten by the end of a text."""
    source = write_folder(tmp_path / "float", **form)
    seen: list[tuple[int, int]] = []
    texts = [TOKENS[:20], TOKENS[20:50]]
    found = calibrate(load_model(source), texts, progress=lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]
    # The same from ONNX Runtime's own past and present, token by token.
    other = calibrate(load_model(source, backend="ort"), texts)
    model = load_model(source)
    for layer in range(2):
        largest = np.zeros((2, 8), np.float32)
        for text in texts:
            cache = model.create_cache()
            for token in text:
                model.forward([[token]], cache)
                largest = np.maximum(largest, np.abs(cache.read(layer, 0)[0]).max(axis=1))
        np.testing.assert_allclose(found[layer].key, largest, rtol=1e-5)
        np.testing.assert_allclose(found[layer].key, other[layer].key, rtol=1e-5)
        np.testing.assert_allclose(found[layer].value, other[layer].value, rtol=1e-5)


def test_text_is_cut_to_the_context() -> None:
    assert [len(part) for part in windows_of(range(1000), context=None, most=900)] == [512, 388]
    assert [len(part) for part in windows_of(range(100), context=40, most=2000)] == [40, 40, 20]
    assert default_text().count("TensorScatter") and len(default_text()) > 10_000
    assert random_tokens(50, 9) == random_tokens(50, 9)


def test_calibration_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    model = load_model(write_folder(tmp_path / "float"))
    with pytest.raises(InvalidInputError, match="no token"):
        calibrate(model, [[]])

    class Closed:
        capabilities = frozenset[str]()

    with pytest.raises(UnsupportedCapabilityError, match="inspect"):
        calibrate(Closed(), [TOKENS])  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["concat", "concat_nodes", "shared"])
def test_other_cache_styles_are_refused(style: Any, tmp_path: Path) -> None:
    signature = open_folder(write_folder(tmp_path / "float", style=style)).signature
    with pytest.raises(UnsupportedModelError, match=f"style '{signature.cache.style}'.*convert"):
        QuantizeCache(signature, [])


def test_a_second_time_is_refused(tmp_path: Path) -> None:
    target = int8_folder(write_folder(tmp_path / "float"), tmp_path / "int8")
    with pytest.raises(UnsupportedModelError, match="int8 already"):
        QuantizeCache(open_folder(target).signature, [])


def test_ranges_of_another_model_are_refused(tmp_path: Path) -> None:
    signature = open_folder(write_folder(tmp_path / "float")).signature
    wrong = CacheRange(np.ones((2, 4), np.float32), np.ones((2, 8), np.float32))
    with pytest.raises(InvalidInputError, match=r"Layer 0 has ranges of shape \(2, 4\)"):
        QuantizeCache(signature, [wrong] * 2)


def test_onnxruntime_says_why_it_keeps_the_standard_attention(tmp_path: Path) -> None:
    target = int8_folder(write_folder(tmp_path / "float"), tmp_path / "int8")
    notes = [str(note) for note in load_model(target, backend="ort").notes]  # type: ignore[attr-defined]
    assert "group-query-attention: not applied (on cpu the kernel does not take int8)" in notes


def test_a_fixed_capacity_becomes_free_on_the_processor(tmp_path: Path) -> None:
    target = int8_folder(write_folder(tmp_path / "float", capacity=48), tmp_path / "int8")
    model = load_model(target, backend="ort")
    assert any(note.startswith("symbolic-capacity: applied") for note in map(str, model.notes))  # type: ignore[attr-defined]
