# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Every kind of step on every cache style, against the NumPy backend with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from genai_iface import BackendError, CacheOverflowError, Capability, InvalidInputError
from tests.ort_backend.cases import CASES, close, is_circular, numpy_model, ort_model, write

# Every case as it runs by default, and one of each style as the file has it.
UNLOWERED = (
    "scatter",
    "scatter-bsh",
    "scatter-fixed",
    "scatter-float16",
    "scatter-position-ids",
    "circular",
    "concat-mask-positions",
    "shared",
)
RUNS = [*(f"{name}:runtime" for name in CASES), *(f"{name}:none" for name in UNLOWERED), "scatter-int4:standard"]
COUNTS = np.array([7, 3, 5])


@pytest.fixture(scope="module", params=RUNS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    name, level = request.param.split(":")
    path = tmp_path_factory.mktemp("models")
    return name, ort_model(write(path, name), level), numpy_model(path, name)


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape)


def both(pair: tuple[str, Any, Any], rows: int = 3, capacity: int = 48) -> list[tuple[Any, Any]]:
    return [(model, model.create_cache(batch_size=rows, capacity=capacity)) for model in pair[1:]]


def compare(pair: tuple[str, Any, Any], caches: list[tuple[Any, Any]], ids: np.ndarray, **arguments: Any) -> np.ndarray:
    """Runs a step on both, compares the logits of real tokens and returns the reference's."""
    actual, expected = (model.forward(ids, cache, **arguments) for model, cache in caches)
    counts = np.asarray(arguments.get("counts", [ids.shape[1]] * len(ids)))
    assert actual.shape == expected.shape
    columns = ids.shape[1] if arguments.get("logits") == "all" else 1
    real = np.arange(columns) < counts[:, None]
    if actual.shape[1]:
        close(actual[real], expected[real], pair[0])
    assert np.array_equal(caches[0][1].lengths, caches[1][1].lengths)
    return expected


def test_ragged_prefill_and_decode(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    logits = compare(pair, caches, tokens(1, 3, 7), counts=COUNTS)
    for _ in range(32):
        logits = compare(pair, caches, logits[:, -1].argmax(-1)[:, None])
    assert caches[0][1].lengths.tolist() == [39, 35, 37]


def test_chunked_prefill_equals_one_shot(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    ids = tokens(2, 3, 12)
    compare(pair, caches, ids[:, :5], logits="none")
    compare(pair, caches, ids[:, 5:11], logits="all")
    chunked = compare(pair, caches, ids[:, 11:])
    model = pair[1]
    whole = model.forward(ids, model.create_cache(batch_size=3, capacity=48))
    close(whole, chunked, pair[0])


def test_ragged_chunks_with_idle_rows(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    for seed, counts in enumerate(([4, 0, 2], [0, 5, 1], [3, 2, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1])):
        compare(pair, caches, tokens(seed, 3, 5), counts=np.array(counts), logits="all")
    assert caches[0][1].lengths.tolist() == [8, 7, 5]


def test_rows_do_not_see_each_other(pair: tuple[str, Any, Any]) -> None:
    name, model, _ = pair
    ids = tokens(3, 3, 7)
    cache = model.create_cache(batch_size=3, capacity=48)
    together = model.forward(ids, cache, counts=COUNTS)
    together = np.concatenate([together, model.forward(tokens(4, 3, 1), cache)], axis=1)
    for row, count in enumerate(COUNTS):
        alone = model.create_cache(batch_size=1, capacity=48)
        first = model.forward(ids[row : row + 1, :count], alone)
        second = model.forward(tokens(4, 3, 1)[row : row + 1], alone)
        close(together[row], np.concatenate([first, second], axis=1)[0], name)


def test_padding_may_be_any_number(pair: tuple[str, Any, Any]) -> None:
    _, model, _ = pair
    ids = tokens(5, 3, 7)
    padded = np.where(np.arange(7) < COUNTS[:, None], ids, -(10**9))
    results = []
    for given in (ids, padded):
        cache = model.create_cache(batch_size=3, capacity=48)
        first = model.forward(given, cache, counts=COUNTS)
        results.append(np.concatenate([first, model.forward(tokens(6, 3, 2), cache)]))
    assert np.array_equal(*results)


def test_a_full_row_may_be_idle(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair, capacity=10)
    compare(pair, caches, tokens(7, 3, 10), counts=np.array([10, 6, 8]))
    before = caches[0][1].read(0, 0)
    compare(pair, caches, tokens(8, 3, 2), counts=np.array([0, 2, 1]))
    compare(pair, caches, tokens(9, 3, 1), counts=np.array([0, 1, 1]))
    for old, new in zip(before, caches[0][1].read(0, 0), strict=True):
        assert np.array_equal(old, new)


def test_the_last_position_of_the_model(pair: tuple[str, Any, Any]) -> None:
    limits = (pair[1].spec.context_length, pair[1].spec.cache.fixed_capacity)
    most = min(limit for limit in limits if limit is not None)
    caches = both(pair, rows=2, capacity=most)
    compare(pair, caches, tokens(10, 2, most), counts=np.array([most, most - 3]), logits="none")
    compare(pair, caches, tokens(11, 2, 3), counts=np.array([0, 2]))
    compare(pair, caches, tokens(12, 2, 1), counts=np.array([0, 1]))
    assert caches[0][1].lengths.tolist() == [most, most]


def test_overflow_changes_nothing(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair, capacity=12)
    compare(pair, caches, tokens(13, 3, 10), counts=np.array([10, 4, 9]))
    cache = caches[0][1]
    before = [cache.read(0, row) for row in range(3)]
    with pytest.raises(CacheOverflowError) as caught:
        pair[1].forward(tokens(14, 3, 3), cache, counts=np.array([3, 3, 3]))
    assert (caught.value.row, caught.value.needed, caught.value.capacity) == (0, 13, 12)
    assert cache.lengths.tolist() == [10, 4, 9]
    for row in range(3):
        for old, new in zip(before[row], cache.read(0, row), strict=True):
            assert np.array_equal(old, new)
    compare(pair, caches, tokens(15, 3, 2))


def test_rewinding_is_as_if_never_appended(pair: tuple[str, Any, Any]) -> None:
    if is_circular(pair[0]):
        assert Capability.REWIND not in pair[1].capabilities
        return
    caches = both(pair)
    compare(pair, caches, tokens(16, 3, 9), counts=np.array([9, 5, 7]))
    for _, cache in caches:
        cache.rewind_to([4, 5, 0])
    after = compare(pair, caches, tokens(17, 3, 6), counts=np.array([6, 1, 4]))
    model = pair[1]
    fresh = model.create_cache(batch_size=3, capacity=48)
    model.forward(tokens(16, 3, 9), fresh, counts=np.array([4, 5, 0]))
    close(model.forward(tokens(17, 3, 6), fresh, counts=np.array([6, 1, 4])), after, pair[0])


@pytest.mark.parametrize("order", [[2, 0, 0], [1], [0, 1, 2, 2, 1], [2, 1, 0]])
def test_reorder_with_duplicates(pair: tuple[str, Any, Any], order: list[int]) -> None:
    caches = both(pair)
    compare(pair, caches, tokens(18, 3, 7), counts=COUNTS)
    content = [caches[0][1].read(1, row) for row in range(3)]
    for _, cache in caches:
        cache.reorder(order)
    cache = caches[0][1]
    assert cache.batch_size == len(order)
    for row, source in enumerate(order):
        for old, new in zip(content[source], cache.read(1, row), strict=True):
            assert np.array_equal(old, new)
    for seed in (19, 20):
        compare(pair, caches, tokens(seed, len(order), 2))


def test_batches_may_grow_and_shrink(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    compare(pair, caches, tokens(46, 3, 7), counts=COUNTS)
    compare(pair, caches, tokens(47, 3, 1))
    for order in ([0, 1, 2, 2, 1], [3, 1, 0], [2, 0], [1, 1, 0]):
        for _, cache in caches:
            cache.reorder(order)
        compare(pair, caches, tokens(48, len(order), 1))


def test_rows_that_have_wrapped_stay_as_they_are_while_idle(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    compare(pair, caches, tokens(49, 3, 21), logits="none")
    before = [caches[0][1].read(layer, 0) for layer in range(2)]
    compare(pair, caches, tokens(50, 3, 1), counts=np.array([0, 1, 1]))
    compare(pair, caches, tokens(51, 3, 3), counts=np.array([0, 3, 2]))
    for layer in range(2):
        for old, new in zip(before[layer], caches[0][1].read(layer, 0), strict=True):
            assert np.array_equal(old, new)
    compare(pair, caches, tokens(52, 3, 1))


def test_a_step_that_fails_half_way_can_be_repeated(
    pair: tuple[str, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = both(pair)
    compare(pair, caches, tokens(53, 3, 7), counts=COUNTS)
    ids, counts = tokens(54, 3, 4), np.array([2, 4, 1])
    content = [caches[0][1].read(0, row) for row in range(3)]
    real, runs = onnxruntime.InferenceSession.run_with_iobinding, 0

    def fail(*arguments: Any) -> None:
        nonlocal runs
        runs += 1
        if runs > 1 or "concat" not in pair[0]:
            raise RuntimeError("injected")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
        with pytest.raises(BackendError, match="injected"):
            pair[1].forward(ids, caches[0][1], counts=counts)
    assert caches[0][1].lengths.tolist() == COUNTS.tolist()
    for row in range(3):
        for old, new in zip(content[row], caches[0][1].read(0, row), strict=True):
            assert np.array_equal(old, new)
    compare(pair, caches, ids, counts=counts)


def test_a_fork_is_independent(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    compare(pair, caches, tokens(21, 3, 7), counts=COUNTS)
    compare(pair, caches, tokens(22, 3, 1))
    forks = [(model, cache.fork()) for model, cache in caches]
    expected = [forks[0][1].read(0, row) for row in range(3)]
    compare(pair, caches, tokens(23, 3, 1))
    assert forks[0][1].lengths.tolist() == (COUNTS + 1).tolist()
    for row in range(3):
        for old, new in zip(expected[row], forks[0][1].read(0, row), strict=True):
            assert np.array_equal(old, new)
    for seed in (24, 26):
        compare(pair, forks, tokens(seed, 3, 1))
        compare(pair, caches, tokens(seed + 1, 3, 1))


def test_reset_rows_begin_anew(pair: tuple[str, Any, Any]) -> None:
    caches = both(pair)
    compare(pair, caches, tokens(25, 3, 20), logits="none")
    for _, cache in caches:
        cache.reset([1])
    compare(pair, caches, tokens(26, 3, 6), counts=np.array([1, 6, 0]))
    for _, cache in caches:
        cache.reset()
    compare(pair, caches, tokens(27, 3, 4))


def test_capacity_changes_nothing(pair: tuple[str, Any, Any]) -> None:
    _, model, _ = pair
    results = []
    for capacity in (14, 48):
        cache = model.create_cache(batch_size=3, capacity=capacity)
        first = model.forward(tokens(28, 3, 7), cache, counts=COUNTS)
        results.append(np.concatenate([first, *(model.forward(tokens(29 + i, 3, 1), cache) for i in range(5))]))
    close(results[0], results[1], pair[0])


def test_update_mode_and_sizes(pair: tuple[str, Any, Any]) -> None:
    _, model, _ = pair
    cache = model.create_cache(batch_size=2, capacity=40)
    model.forward(tokens(30, 2, 6), cache)
    model.forward(tokens(31, 2, 1), cache)
    assert cache.update_mode == ("copied" if model.spec.cache.style == "concat" else "in_place")
    assert cache.bytes_per_token == model.spec.cache.bytes_per_token
    assert is_circular(pair[0]) or cache.nbytes >= 2 * 7 * cache.bytes_per_token
    cache.close()
    assert cache.nbytes == 0
    with pytest.raises(InvalidInputError, match="closed"):
        model.forward(tokens(32, 2, 1), cache)


def test_logits_belong_to_the_caller(pair: tuple[str, Any, Any]) -> None:
    _, model, _ = pair
    cache = model.create_cache(capacity=40)
    ids = tokens(33, 1, 4)
    given = ids.copy()
    first = model.forward(ids, cache)
    kept = first.copy()
    first[...] = 0
    second = model.forward(ids[:, :1], cache)
    model.forward(ids[:, :1], cache)
    assert np.array_equal(ids, given)
    assert not np.array_equal(second, kept)
    cache.reset()
    assert np.array_equal(model.forward(ids, cache), kept)


def test_capabilities_are_those_of_the_style(pair: tuple[str, Any, Any]) -> None:
    _, model, _ = pair
    assert {Capability.BATCH, Capability.RAGGED, Capability.CHUNKED_PREFILL, Capability.SAVE} <= model.capabilities
    assert f"cache_{model.spec.cache.style}" in model.capabilities


@pytest.mark.parametrize("name", ["scatter", "concat", "shared", "circular"])
def test_a_graph_that_gives_the_last_position_only(tmp_path: Path, name: str) -> None:
    """Ragged steps and logits="all" need more than one run of such a graph."""
    folder = write(tmp_path, name)
    graph = onnx.load(folder / "model.onnx")
    last = graph.graph.node[-1]
    last.output[0] = "all_logits"
    numbers = {"begin": [-1], "end": [2**31 - 1], "axis": [1]}
    for key, value in numbers.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), key))
    graph.graph.node.append(onnx.helper.make_node("Slice", ["all_logits", *numbers], ["logits"]))
    output = next(value for value in graph.graph.output if value.name == "logits")
    output.type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(graph, folder / "model.onnx")
    for level in ("none", "runtime"):
        pair = (name, ort_model(folder, level), numpy_model(tmp_path, name))
        caches = both(pair)
        compare(pair, caches, tokens(40, 3, 7), counts=COUNTS)
        compare(pair, caches, tokens(41, 3, 3), logits="all")
        compare(pair, caches, tokens(42, 3, 3), counts=np.array([0, 3, 2]), logits="all")
        compare(pair, caches, tokens(43, 3, 4), counts=np.array([4, 0, 1]))
        compare(pair, caches, tokens(44, 3, 1), logits="none")
        compare(pair, caches, tokens(45, 3, 1))
