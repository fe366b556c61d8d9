# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Closed caches and closed models refuse what they can no longer do, whatever the cache style."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import CacheRewindError, InvalidInputError
from tests.ort_backend.cases import ort_model, write

STYLES = ("scatter", "circular", "shared", "concat")
CALLS: dict[str, Callable[[Any], object]] = {
    "can_rewind_to": lambda cache: cache.can_rewind_to(2),
    "rewind_to": lambda cache: cache.rewind_to(2),
    "reorder": lambda cache: cache.reorder([0]),
    "reset": lambda cache: cache.reset(),
    "fork": lambda cache: cache.fork(),
    "read": lambda cache: cache.read(0, 0),
}


@pytest.fixture(params=STYLES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return ort_model(write(tmp_path, request.param))


def filled(model: Any) -> Any:
    cache = model.create_cache(batch_size=2, capacity=16)
    model.forward(np.array([[5, 6, 7, 8]] * 2), cache, logits="none")
    return cache


def test_a_closed_cache_refuses_all_but_close(model: Any, tmp_path: Path) -> None:
    cache = filled(model)
    cache.close()
    for call in CALLS.values():
        with pytest.raises(InvalidInputError, match="cache is closed"):
            call(cache)
    with pytest.raises(InvalidInputError, match="cache is closed"):
        model.forward([[5], [6]], cache)
    with pytest.raises(InvalidInputError, match="cache is closed"):
        model.save_cache(cache, tmp_path / "a")
    cache.close()


def test_an_open_cache_allows_them(model: Any) -> None:
    for call in CALLS.values():
        call(filled(model))


def test_a_closed_model_refuses_all_but_close(model: Any, tmp_path: Path) -> None:
    cache = filled(model)
    model.save_cache(cache, tmp_path / "a")
    model.close()
    calls: list[Callable[[], object]] = [
        model.create_cache,
        lambda: model.forward([[5], [6]], cache),
        lambda: model.save_cache(cache, tmp_path / "b"),
        lambda: model.load_cache(tmp_path / "a"),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="model is closed"):
            call()
    assert not (tmp_path / "b").exists()
    model.close()


def test_the_smallest_of_several_windows_bounds_a_rewind(tmp_path: Path) -> None:
    model = ort_model(write(tmp_path, "circular", capacity=[16, 8]), "none")
    cache = model.create_cache(capacity=32)
    for token in range(12):
        model.forward([[token]], cache, logits="none")
    assert not cache.can_rewind_to(11)
    with pytest.raises(CacheRewindError, match="8 tokens"):
        cache.rewind_to(11)
    assert cache.lengths.tolist() == [12]
