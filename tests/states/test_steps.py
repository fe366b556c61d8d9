# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Steps of models that keep states, against formulas over the whole sequence in float64."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import Capability, load_model
from tests.marks import BACKENDS, needs_toolbox
from tests.states.models import KINDS, oracle_of, write_state_folder

TOLERANCE = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 0.15}
VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    **{name: (mixers, {}) for name, mixers in KINDS.items()},
    "without counts": (KINDS["gated_delta"], {"counted": False}),
    "contrib": (KINDS["gated_delta"], {"domain": "com.microsoft", "opset": 24}),
    "concat": (KINDS["gated_delta"], {"style": "concat"}),
    "spelled out": (("spelled", "attention"), {"counted": False, "style": "concat"}),
    "rules": (("linear", "delta", "gated_channels"), {}),
    "nameless": (KINDS["gated_delta"], {"anonymous": True}),
    "float16": (KINDS["gated_delta"], {"dtype": "float16"}),
    "bfloat16": (KINDS["gated_delta"], {"dtype": "bfloat16"}),
}


class Loaded:
    """A model, and what its rows should say."""

    def __init__(self, path: Path, name: str, backend: str) -> None:
        mixers, fields = VARIANTS[name]
        folder = path / name.replace(" ", "_")
        if not folder.exists():
            write_state_folder(folder, mixers, **fields)
        self.model = load_model(folder, backend=backend)
        self.oracle = oracle_of(folder, mixers, **{k: v for k, v in fields.items() if k != "dtype"})
        self.tolerance = TOLERANCE[fields.get("dtype", "float32")]

    def check(self, logits: np.ndarray, tokens: list[int], what: str) -> None:
        """The logits (n, V) that follow the last n of these tokens."""
        wanted = self.oracle.logits(tokens)[-len(logits) :]
        np.testing.assert_allclose(logits, wanted, atol=self.tolerance * np.abs(wanted).max(), rtol=0, err_msg=what)


@functools.cache
def load(path: Path, name: str, backend: str) -> Loaded:
    """A model of ``VARIANTS``, once for all tests of a module."""
    return Loaded(path, name, backend)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape)


@pytest.mark.parametrize("backend", BACKENDS)
# The NumPy backend runs the runtime's own operators by rewriting them.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_toolbox) if name == "contrib" else name for name in VARIANTS]
)
def test_ragged_steps(folder: Path, name: str, backend: str) -> None:
    """Prompts of different lengths, chunks, idle rows and single tokens."""
    loaded = load(folder, name, backend)
    cache = loaded.model.create_cache(batch_size=3, capacity=24)
    rows: list[list[int]] = [[], [], []]
    for at, counts in enumerate(((5, 3, 1), (2, 0, 4), (1, 1, 1), (0, 1, 0), (1, 1, 1), (1, 1, 1), (3, 1, 2))):
        ids = tokens(at, 3, max(counts))
        all_single = counts == (1, 1, 1)
        logits = loaded.model.forward(
            ids, cache, counts=None if all_single else np.array(counts), logits="last" if all_single else "all"
        )
        for row, count in enumerate(counts):
            rows[row] += ids[row, :count].tolist()
            if count:
                loaded.check(logits[row, :count], rows[row], f"step {at}, row {row}")
    assert cache.lengths.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_chunks_give_what_one_step_gives(folder: Path, name: str, backend: str, size: int) -> None:
    """Borders inside, at and beyond the kernel of a convolution."""
    loaded = load(folder, name, backend)
    ids = tokens(7, 1, 11)
    cache = loaded.model.create_cache(capacity=16)
    parts = [loaded.model.forward(ids[:, at : at + size], cache, logits="all") for at in range(0, 11, size)]
    loaded.check(np.concatenate(parts, axis=1)[0], ids[0].tolist(), f"chunks of {size}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KINDS)
def test_moved_rows(folder: Path, name: str, backend: str, tmp_path: Path) -> None:
    """Reorder within and across the batch, reset, fork, save and load."""
    loaded = load(folder, name, backend)
    model, rows = loaded.model, [[], [], []]  # type: ignore[var-annotated]
    cache = model.create_cache(batch_size=3, capacity=32)

    def step(which: Any, seed: int, seqs: list[list[int]]) -> None:
        ids = tokens(seed, len(seqs), 2)
        logits = model.forward(ids, which, logits="all")
        for row, seq in enumerate(seqs):
            seq.extend(ids[row].tolist())
            loaded.check(logits[row], seq, f"seed {seed}, row {row}")

    step(cache, 1, rows)
    for order in ([2, 0, 1], [1, 1, 0, 2], [3, 0]):
        cache.reorder(order)
        rows = [list(rows[index]) for index in order]
        step(cache, 10 + len(order), rows)
    twin, twins = cache.fork(), [list(row) for row in rows]
    step(cache, 20, rows)
    step(twin, 21, twins)
    cache.reset([1])
    rows[1] = []
    step(cache, 22, rows)
    model.save_cache(cache, tmp_path / "cache.safetensors")
    step(model.load_cache(tmp_path / "cache.safetensors", capacity=32), 23, [list(row) for row in rows])
    step(cache, 24, rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_it_declares(folder: Path, backend: str) -> None:
    model = load(folder, "alone", backend).model
    assert model.capabilities >= {Capability.STATE, Capability.REWIND_STEP, Capability.CHECKPOINT}
    assert not model.capabilities & {Capability.REWIND, Capability.CACHE_SCATTER, Capability.IN_PLACE}
    cache = model.create_cache(batch_size=2)
    assert model.spec.cache.layers == ()
    # (32 channels of 2 inputs, and two matrices of 2 heads of 6 x 8) x 4 bytes
    assert cache.bytes_per_row == model.spec.cache.bytes_per_row == (64 + 96 + 96) * 4
    assert cache.bytes_per_token == 0
    assert cache.nbytes == 2 * 2 * cache.bytes_per_row


@pytest.mark.parametrize("name", KINDS)
def test_an_idle_row_keeps_its_state_bit_by_bit(folder: Path, name: str) -> None:
    model = load(folder, name, "numpy").model
    cache = model.create_cache(batch_size=2, capacity=16)
    model.forward(tokens(1, 2, 5), cache)
    before = [state[1].tobytes() for state in cache.states.present]
    model.forward(tokens(2, 2, 3), cache, counts=np.array([3, 0]))
    assert [state[1].tobytes() for state in cache.states.present] == before


def test_padding_may_be_any_token(folder: Path) -> None:
    """Not even what is no number gets from padding into a state."""
    model = load(folder, "gated", "numpy").model
    ids = tokens(3, 2, 4)
    other = np.where(np.arange(4) < np.array([[4], [2]]), ids, 255)
    results = []
    for given in (ids, other):
        cache = model.create_cache(batch_size=2, capacity=16)
        model.forward(given, cache, counts=np.array([4, 2]))
        results.append(model.forward(ids[:, :1], cache))
    np.testing.assert_array_equal(*results)
