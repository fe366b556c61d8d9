# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""How far rows with states go back: where the last step began, where a checkpoint was taken, 0, nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genai_iface import CacheRewindError, InvalidInputError, SupportsCheckpoint, UnsupportedCapabilityError, load_model
from tests.marks import BACKENDS
from tests.models import write_folder
from tests.states.models import KINDS
from tests.states.test_steps import load, tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", KINDS)
def test_every_length(folder: Path, name: str, backend: str) -> None:
    """What is said to work continues as if never appended; what is refused changes nothing."""
    loaded = load(folder, name, backend)
    ids = tokens(1, 1, 9)
    for length in range(8):
        cache = loaded.model.create_cache(capacity=32)
        for begin, end in ((0, 4), (4, 6), (6, 7)):
            loaded.model.forward(ids[:, begin:end], cache)
        can = cache.can_rewind_to(length)
        assert can == (length in (0, 6, 7))
        kept = 7
        if can:
            cache.rewind_to(length)
            kept = length
        else:
            with pytest.raises(CacheRewindError, match="it can go to 0, 6, 7"):
                cache.rewind_to(length)
        assert cache.lengths.tolist() == [kept]
        logits = loaded.model.forward(ids[:, 7:9], cache, logits="all")
        loaded.check(logits[0], ids[0, :kept].tolist() + ids[0, 7:9].tolist(), f"from {length}")


@pytest.mark.parametrize("name", KINDS)
def test_the_step_goes_back_in_some_rows(folder: Path, name: str, backend: str) -> None:
    """Drafts: two rows refuse some and run the accepted ones again, one has had them all accepted."""
    loaded = load(folder, name, backend)
    ids = tokens(2, 3, 9)
    cache = loaded.model.create_cache(batch_size=3, capacity=32)
    loaded.model.forward(ids[:, :4], cache)
    loaded.model.forward(ids[:, 4:8], cache, logits="all")
    cache.rewind_to([4, 8, 4])
    assert cache.can_rewind_to([4, 4, 4])
    assert not cache.can_rewind_to([3, 8, 4])
    loaded.model.forward(ids[:, 4:7], cache, counts=np.array([3, 0, 1]))
    logits = loaded.model.forward(ids[:, 8:9], cache)
    for row, kept in enumerate((7, 8, 5)):
        loaded.check(logits[row], ids[row, :kept].tolist() + ids[row, 8:9].tolist(), f"row {row}")


@pytest.mark.parametrize("name", KINDS)
def test_checkpoints(folder: Path, name: str, backend: str) -> None:
    loaded = load(folder, name, backend)
    model, ids = loaded.model, tokens(3, 2, 12)
    cache = model.create_cache(batch_size=2, capacity=32)
    assert isinstance(cache, SupportsCheckpoint)
    cache.checkpoint()
    assert cache.checkpoints(0) == ()  # an empty row needs none
    model.forward(ids[:, :4], cache)
    before = cache.nbytes
    cache.checkpoint()
    assert cache.nbytes == before + 2 * cache.bytes_per_row
    cache.checkpoint([0])
    assert cache.nbytes == before + 2 * cache.bytes_per_row
    for at in range(4, 8):
        model.forward(ids[:, at : at + 1], cache)
    cache.checkpoint([1])
    model.forward(ids[:, 8:10], cache)
    assert [cache.checkpoints(row) for row in (0, 1)] == [(4,), (4, 8)]
    twin = cache.fork()
    cache.reorder([1, 0, 1])
    assert [cache.checkpoints(row) for row in (0, 1, 2)] == [(4, 8), (4,), (4, 8)]
    with pytest.raises(CacheRewindError, match="it can go to 0, 4, 8, 10"):
        cache.rewind_to([5, 10, 10])
    cache.rewind_to([4, 4, 8])
    assert [cache.checkpoints(row) for row in (0, 1, 2)] == [(4,), (4,), (4, 8)]
    logits = model.forward(tokens(4, 3, 2), cache, logits="all")
    for row, (source, kept) in enumerate(((1, 4), (0, 4), (1, 8))):
        loaded.check(logits[row], ids[source, :kept].tolist() + tokens(4, 3, 2)[row].tolist(), f"row {row}")
    cache.drop(2, 8)
    assert cache.checkpoints(2) == (4,)
    cache.reset([0])
    assert cache.checkpoints(0) == ()
    with pytest.raises(InvalidInputError, match="no checkpoint at 8; it has 4"):
        cache.drop(2, 8)
    # What happened to one does not show in the other.
    twin.rewind_to([4, 8])
    logits = model.forward(ids[:, 10:], twin)
    for row, kept in enumerate((4, 8)):
        loaded.check(logits[row], ids[row, :kept].tolist() + ids[row, 10:].tolist(), f"row {row} of the copy")
    held = twin.nbytes
    twin.drop(1)
    assert twin.nbytes == held - 2 * twin.bytes_per_row


def test_a_checkpoint_outlives_many_steps(folder: Path, backend: str) -> None:
    loaded = load(folder, "gated_delta", backend)
    ids = tokens(5, 1, 30)
    cache = loaded.model.create_cache(capacity=64)
    loaded.model.forward(ids[:, :7], cache)
    cache.checkpoint()
    for _ in range(3):
        for at in range(7, 20):
            loaded.model.forward(ids[:, at : at + 1], cache)
        cache.rewind_to(7)
    logits = loaded.model.forward(ids[:, 20:22], cache, logits="all")
    loaded.check(logits[0], ids[0, :7].tolist() + ids[0, 20:22].tolist(), "after three rewinds")


def test_without_states_there_is_nothing_to_keep(tmp_path: Path, backend: str) -> None:
    cache = load_model(write_folder(tmp_path / "plain"), backend=backend).create_cache(capacity=8)
    for call in (cache.checkpoint, lambda: cache.checkpoints(0), lambda: cache.drop(0)):
        with pytest.raises(UnsupportedCapabilityError, match="keeps no states"):
            call()


def test_a_closed_cache_refuses(folder: Path, backend: str) -> None:
    cache = load(folder, "conv", backend).model.create_cache(capacity=8)
    cache.close()
    assert cache.nbytes == 0
    for call in (cache.checkpoint, lambda: cache.checkpoints(0), lambda: cache.drop(0), lambda: cache.rewind_to(0)):
        with pytest.raises(InvalidInputError, match="closed"):
            call()
