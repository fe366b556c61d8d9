# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Steps and caches of the NumPy backend against onnx.reference."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import (
    CacheOverflowError,
    CacheRewindError,
    InvalidInputError,
    Model,
    SupportsFork,
    SupportsInspect,
    load_model,
)
from tests.models import write_folder
from tests.oracle import Oracle

ROWS = ([5, 77, 23, 9, 111, 4, 60], [64, 3, 30], [12, 13, 14, 15, 16])
TOLERANCE = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 2e-1}

MODELS: dict[str, dict[str, Any]] = {
    "scatter": {},
    "scatter_bsh": {"layout": "bsh"},
    "scatter_fixed": {"capacity": 24},
    "scatter_positions": {"position_ids": True, "nonpad": "computed"},
    "scatter_mask": {"attention_mask": True},
    "scatter_softcap": {"softcap": 3.0},
    "scatter_partial_rotary": {"rotary_dim": 4, "layout": "bsh"},
    "scatter_uneven_layers": {"num_kv_heads": (2, 4), "head_dim": (8, 4), "v_head_dim": (8, 12)},
    "scatter_multi_query": {"num_kv_heads": 1},
    "scatter_int8": {"quantize": "int8", "tied": True},
    "scatter_int4": {"quantize": "int4"},
    "scatter_float16": {"dtype": "float16"},
    "scatter_bfloat16": {"dtype": "bfloat16"},
    "concat": {"style": "concat"},
    "concat_mask": {"style": "concat", "attention_mask": True, "position_ids": True},
    "concat_nodes": {"style": "concat_nodes"},
    "concat_nodes_bsh": {"style": "concat_nodes", "layout": "bsh"},
    "decomposed": {"style": "decomposed"},
    "decomposed_learned": {"style": "decomposed", "positions": "learned"},
    "decomposed_mask_positions": {"style": "decomposed", "positions_from_mask": True},
}


def padded(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows padded on the right with a token that is not a legal id, and their counts."""
    counts = np.array([len(row) for row in rows])
    ids = np.full((len(rows), max(1, counts.max())), -1)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids, counts


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loaded: dict[str, tuple[Model[Any], Oracle]] = {}

    def get(name: str) -> tuple[Model[Any], Oracle]:
        if name not in loaded:
            folder = write_folder(tmp_path_factory.mktemp("model") / name, **MODELS[name])
            loaded[name] = load_model(folder), Oracle(folder)
        return loaded[name]

    return get


def close(got: np.ndarray, expected: np.ndarray, dtype: str = "float32") -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_ragged_prefill_chunk_and_decode(name: str, load: Any) -> None:
    model, oracle = load(name)
    dtype = MODELS[name].get("dtype", "float32")
    expected = [oracle.logits(row) for row in ROWS]
    cache = model.create_cache(batch_size=3, capacity=20)

    ids, counts = padded([row[:2] for row in ROWS])
    prefill = model.forward(ids, cache, counts=counts, logits="all")
    for row in range(3):
        close(prefill[row], expected[row][:2], dtype)

    # A chunk at offset 2, with a different count for each row, one of them idle.
    ids, counts = padded([row[2:] if row is not ROWS[1] else [] for row in ROWS])
    last = model.forward(ids, cache, counts=counts)
    for row in (0, 2):
        close(last[row, 0], expected[row][-1], dtype)
    assert cache.lengths.tolist() == [7, 2, 5]

    # The row that was idle goes on alone, token by token.
    step = model.forward([[-5], [ROWS[1][2]], [-5]], cache, counts=[0, 1, 0])
    close(step[1, 0], expected[1][2], dtype)
    assert cache.lengths.tolist() == [7, 3, 5]
    assert cache.update_mode == ("in_place" if "scatter" in name else "copied")


@pytest.mark.parametrize("name", ["scatter", "scatter_bsh", "concat", "decomposed"])
def test_rewound_tokens_never_were(name: str, load: Any) -> None:
    model, oracle = load(name)
    cache = model.create_cache(batch_size=2, capacity=16)
    model.forward([[5, 77, 99, 98, 97], [64, 3, 96, 95, 94]], cache, logits="none")
    cache.rewind_to([2, 1])
    step = model.forward([[23, 9], [3, -1]], cache, counts=[2, 1])
    close(step[0, 0], oracle.logits([5, 77, 23, 9])[-1])
    close(step[1, 0], oracle.logits([64, 3])[-1])


@pytest.mark.parametrize("name", ["scatter", "scatter_bsh", "concat"])
def test_reorder_duplicates_and_drops_rows(name: str, load: Any) -> None:
    model, oracle = load(name)
    cache = model.create_cache(batch_size=3, capacity=16)
    ids, counts = padded(ROWS)
    model.forward(ids, cache, counts=counts, logits="none")
    cache.reorder([2, 0, 2, 2])
    assert cache.batch_size == 4
    step = model.forward([[1], [2], [3], [4]], cache)
    for row, (source, token) in enumerate([(2, 1), (0, 2), (2, 3), (2, 4)]):
        close(step[row, 0], oracle.logits([*ROWS[source], token])[-1])


def test_fork_and_reset_are_independent(load: Any) -> None:
    model, oracle = load("scatter")
    cache = model.create_cache(batch_size=2, capacity=16)
    model.forward([[5, 77], [64, 3]], cache, logits="none")
    assert isinstance(cache, SupportsFork)
    fork = cache.fork()
    cache.reset([0])
    model.forward([[9, 9], [9, 9]], cache, logits="none")
    close(
        model.forward([[23], [30]], fork)[:, 0],
        np.stack([oracle.logits(row)[-1] for row in ([5, 77, 23], [64, 3, 30])]),
    )
    assert cache.lengths.tolist() == [2, 4]
    close(model.forward([[1], [1]], cache)[0, 0], oracle.logits([9, 9, 1])[-1])


@pytest.mark.parametrize("name", ["scatter", "scatter_bsh", "scatter_fixed", "concat"])
def test_a_full_row_may_idle_while_others_go_on(name: str, load: Any) -> None:
    model, oracle = load(name)
    capacity = 24 if name == "scatter_fixed" else 8
    cache = model.create_cache(batch_size=2, capacity=capacity)
    full = np.arange(capacity) + 3
    ids, counts = padded([full, ROWS[1]])
    model.forward(ids, cache, counts=counts, logits="none")
    before = cache.read(1, 0) if isinstance(cache, SupportsInspect) else None
    step = model.forward([[-1, -1], [9, 8]], cache, counts=[0, 2])
    close(step[1, 0], oracle.logits([*ROWS[1], 9, 8])[-1])
    assert before is not None
    for old, new in zip(before, cache.read(1, 0), strict=True):
        assert old.tobytes() == new.tobytes()
    with pytest.raises(CacheOverflowError) as caught:
        model.forward([[1], [1]], cache)
    assert (caught.value.row, caught.value.needed, caught.value.capacity) == (0, capacity + 1, capacity)
    assert cache.lengths.tolist() == [capacity, 5]


def test_growth_keeps_everything(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, oracle = load("scatter")
    monkeypatch.setattr("genai_iface_numpy.model._INITIAL_POSITIONS", 2)
    cache = model.create_cache(batch_size=2)
    sizes = set()
    tokens = [5, 77, 23, 9, 111, 4, 60, 61, 62]
    for token in tokens:
        last = model.forward([[token], [token + 1]], cache)
        sizes.add(cache.nbytes)
    assert len(sizes) == 4  # 2, 4, 8, 16 positions
    close(last[0, 0], oracle.logits(tokens)[-1])
    close(last[1, 0], oracle.logits([token + 1 for token in tokens])[-1])


def test_failed_growth_leaves_the_cache_usable(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from genai_iface import BackendError
    from genai_iface_numpy.cache import BufferSpec

    model, oracle = load("scatter")
    monkeypatch.setattr("genai_iface_numpy.model._INITIAL_POSITIONS", 4)
    cache = model.create_cache()
    model.forward([[5, 77, 23]], cache, logits="none")
    calls = []
    allocate = BufferSpec.allocate

    def scarce(self: BufferSpec, batch_size: int, positions: int) -> np.ndarray:
        calls.append(positions)
        if len(calls) == 2:
            raise MemoryError
        return allocate(self, batch_size, positions)

    with monkeypatch.context() as patch:
        patch.setattr(BufferSpec, "allocate", scarce)
        with pytest.raises(BackendError, match="No memory for a cache of 1 rows with"):
            model.forward([[9, 111, 4]], cache)
    assert cache.lengths.tolist() == [3]
    close(model.forward([[9, 111, 4]], cache)[0, 0], oracle.logits([5, 77, 23, 9, 111, 4])[-1])


@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
def test_circular_cache_wraps(layout: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "ring", mode="circular", capacity=6, layout=layout)
    model, oracle = load_model(folder), Oracle(folder)
    tokens = [5, 77, 23, 9, 111, 4, 60, 61, 62, 63, 64]
    expected = oracle.logits(tokens, one_by_one=True)

    cache = model.create_cache(batch_size=2)
    ids, counts = padded([tokens[:9], tokens[:4]])
    got = model.forward(ids, cache, counts=counts, logits="all")
    close(got[0], expected[:9])
    close(got[1, :4], expected[:4])
    got = model.forward([tokens[9:], tokens[4:6]], cache, logits="all")
    close(got[0], expected[9:])
    close(got[1], expected[4:6])

    assert cache.can_rewind_to([11, 3])
    assert not cache.can_rewind_to([10, 6])
    with pytest.raises(CacheRewindError) as caught:
        cache.rewind_to([10, 6])
    assert caught.value.row == 0
    assert cache.lengths.tolist() == [11, 6]
    cache.reset([0])
    step = model.forward([[5], [60]], cache)
    close(step[0, 0], expected[0])
    close(step[1, 0], expected[6])


def test_capacity_does_not_change_results(load: Any) -> None:
    model, _ = load("scatter")
    results = []
    for capacity in (7, 40, None):
        cache = model.create_cache(capacity=capacity)
        model.forward([ROWS[0][:6]], cache, logits="none")
        results.append(model.forward([ROWS[0][6:]], cache))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_ids": [1, 2]},
        {"input_ids": [[1, 2]]},
        {"input_ids": [[1.5], [2.5]]},
        {"input_ids": [[1], [10**6]]},
        {"input_ids": [[1], [-1]]},
        {"input_ids": [[], []]},
        {"input_ids": [[1], [2]], "counts": [1]},
        {"input_ids": [[1], [2]], "counts": [2, 1]},
        {"input_ids": [[1], [2]], "counts": [-1, 1]},
        {"input_ids": [[1], [2]], "logits": "first"},
    ],
)
def test_bad_steps_are_refused(arguments: dict[str, Any], load: Any) -> None:
    model, _ = load("scatter")
    cache = model.create_cache(batch_size=2, capacity=8)
    ids = arguments.pop("input_ids")
    with pytest.raises(InvalidInputError) as caught:
        model.forward(ids, cache, **arguments)
    assert caught.value.remedy
    assert cache.lengths.tolist() == [0, 0]


def test_caches_belong_to_their_model(load: Any) -> None:
    model, _ = load("scatter")
    other, _ = load("scatter_bsh")
    with pytest.raises(InvalidInputError, match="not made by this model"):
        model.forward([[1]], other.create_cache(capacity=4))
    cache = model.create_cache(capacity=4)
    cache.close()
    assert cache.nbytes == 0
    with pytest.raises(InvalidInputError, match="closed"):
        model.forward([[1]], cache)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"capacity": 0}, {"capacity": 25}])
def test_bad_caches_are_refused(arguments: dict[str, int], load: Any) -> None:
    model, _ = load("scatter_fixed")
    with pytest.raises(InvalidInputError):
        model.create_cache(**arguments)


def test_decoding_allocates_no_cache(tmp_path: Path) -> None:
    model = load_model(write_folder(tmp_path / "model", max_positions=2048, num_kv_heads=4, head_dim=16))
    cache = model.create_cache(capacity=1100)
    tensor_bytes = cache.nbytes // (2 * len(model.spec.cache.layers))
    model.forward([[1]], cache)
    tracemalloc.start()
    try:
        for token in range(200):
            model.forward([[token]], cache)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert cache.update_mode == "in_place"
    assert peak < tensor_bytes / 2


def test_threads_with_their_own_caches(load: Any) -> None:
    model, oracle = load("scatter")
    rows = [[token, token + 1, token + 2, token + 3] for token in range(10, 18)]
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        cache = model.create_cache(capacity=8)
        for token in rows[index]:
            results[index] = model.forward([[token]], cache)[0, 0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, row in enumerate(rows):
        close(results[index], oracle.logits(row)[-1])
