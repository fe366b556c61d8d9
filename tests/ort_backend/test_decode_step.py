# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The short way of decode steps: taken when it can be, and equal to the general way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import CacheOverflowError, InvalidInputError, load_model
from genai_iface_ort.steps.decode_step import DecodeStep
from tests.models import write_folder

MODELS: dict[str, dict[str, Any]] = {
    "lowered": {},
    "standard": {"options": {"optimize": "none"}},
    "positions": {"position_ids": True, "options": {"optimize": "none"}},
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of the short way did the step."""
    taken: list[bool] = []
    plain = DecodeStep.run

    def counted(self: DecodeStep, *arguments: Any) -> Any:
        result = plain(self, *arguments)
        taken.append(result is not None)
        return result

    monkeypatch.setattr(DecodeStep, "run", counted)
    return taken


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_general_way(name: str, tmp_path: Path, runs: list[bool]) -> None:
    fields = dict(MODELS[name])
    options = fields.pop("options", None)
    model = load_model(write_folder(tmp_path / "model", **fields), backend="ort", options=options)
    short = model.create_cache(batch_size=2, capacity=24)
    general = model.create_cache(batch_size=2, capacity=24)
    for cache in (short, general):
        model.forward([[5, 77, 23], [64, 3, 1]], cache, counts=[3, 2])
    for token in range(10, 20):
        got = model.forward([[token], [token + 1]], short)
        # Explicit counts go the general way.
        expected = model.forward([[token], [token + 1]], general, counts=[1, 1])
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(short.lengths, general.lengths)
    assert runs.count(True) >= 7
    short.rewind_to([4, 3])
    general.rewind_to([4, 3])
    got, expected = (
        model.forward([[9], [8]], cache, counts=given) for cache, given in ((short, None), (general, [1, 1]))
    )
    np.testing.assert_array_equal(got, expected)


def test_unusual_steps_go_the_general_way(tmp_path: Path, runs: list[bool]) -> None:
    model = load_model(write_folder(tmp_path / "model"), backend="ort")
    cache = model.create_cache(capacity=6)
    for token in (1, 2, 3, 4):
        model.forward([[token]], cache)
    assert runs == [True, True]
    for bad in ([[-1]], [[10**6]], [[1.5]], [[1], [2]]):
        with pytest.raises(InvalidInputError):
            model.forward(bad, cache)
    assert cache.lengths.tolist() == [4]
    model.forward([[5]], cache)
    model.forward([[6]], cache)
    with pytest.raises(CacheOverflowError):
        model.forward([[7]], cache)
    assert cache.lengths.tolist() == [6]


def test_returned_logits_belong_to_the_caller(tmp_path: Path) -> None:
    model = load_model(write_folder(tmp_path / "model"), backend="ort")
    cache = model.create_cache(capacity=16)
    kept = [model.forward([[token]], cache) for token in range(1, 9)]
    copies = [logits.copy() for logits in kept]
    for logits in kept:
        logits[...] = 0
    again = model.create_cache(capacity=16)
    for token, expected in zip(range(1, 9), copies, strict=True):
        np.testing.assert_array_equal(model.forward([[token]], again), expected)


@pytest.mark.parametrize(
    "keep",
    [
        lambda logits: logits[0, -1],
        lambda logits: logits[0][-1][5:].reshape(-1, 1),
        lambda logits: logits.view(np.recarray),
        lambda logits: np.frombuffer(logits, np.float32),
        lambda logits: np.lib.stride_tricks.as_strided(logits, logits.shape[:2]),
        np.from_dlpack,
        memoryview,
    ],
    ids=["view", "view of views", "subclass", "frombuffer", "strides", "dlpack", "memoryview"],
)
def test_parts_of_logits_that_are_kept_stay_as_they_are(keep: Any, tmp_path: Path) -> None:
    model = load_model(write_folder(tmp_path / "model"), backend="ort")
    cache = model.create_cache(batch_size=1, capacity=32)
    model.forward([[5, 77, 23]], cache)
    kept, copies = [], []
    for token in range(10, 18):
        # Nothing else holds the array itself, not even a name in this function.
        kept.append(keep(model.forward([[token]], cache)))
        copies.append(np.array(kept[-1]))
    assert len({copy.tobytes() for copy in copies}) == len(copies)
    for one, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(np.array(one), copy)


def test_logits_that_nobody_keeps_cost_no_allocation(tmp_path: Path) -> None:
    model = load_model(write_folder(tmp_path / "model"), backend="ort")
    cache = model.create_cache(batch_size=1, capacity=32)
    model.forward([[5, 77, 23]], cache)
    addresses = [model.forward([[token]], cache).ctypes.data for token in range(10, 18)]
    assert len(set(addresses)) == 1


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_were_idle_go_on(name: str, tmp_path: Path, runs: list[bool]) -> None:
    fields = dict(MODELS[name])
    options = fields.pop("options", None)
    folder = write_folder(tmp_path / "model", **fields)
    model, reference = load_model(folder, backend="ort", options=options), load_model(folder)
    caches = [each.create_cache(batch_size=3, capacity=24) for each in (model, reference)]
    ids = np.random.default_rng(0).integers(0, 100, (12, 3, 1))
    for step in range(12):
        # The middle row: groups of rows would be joined around one at an end.
        counts = np.array([1, 0, 1]) if step in (3, 4, 7) else None
        got, expected = (
            each.forward(ids[step], cache, counts=counts).copy()
            for each, cache in zip((model, reference), caches, strict=True)
        )
        rows = [0, 1, 2] if counts is None else [0, 2]
        np.testing.assert_allclose(got[rows], expected[rows], atol=1e-4)
    assert runs.count(True) >= 5
