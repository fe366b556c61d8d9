# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Folders that ONNX Runtime GenAI's model builder wrote: the shared style as it is found in the world."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import Capability
from tests.ort_backend.cases import ort_model
from tests.parity.checkpoints import torch_greedy
from tests.parity.genai_folders import build_genai, write_checkpoint

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
]

PROMPTS = ([5, 77, 23, 9, 111], [64, 3, 30], [12, 13, 14, 15, 16, 17, 18])
COUNTS = np.array([len(prompt) for prompt in PROMPTS])
IDS = np.array([[*prompt, *[0] * (7 - len(prompt))] for prompt in PROMPTS])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return write_checkpoint("llama", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def folders(checkpoint: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("built")
    built = {precision: build_genai(checkpoint[0], path / precision, precision) for precision in ("fp32", "int4")}
    # One table for the embedding and the LM head: GatherBlockQuantized reads the LM head's.
    tied, _ = write_checkpoint("llama", path / "tied-checkpoint", tie_word_embeddings=True)
    return built | {"int4-tied": build_genai(tied, path / "int4-tied", "int4")}


@pytest.mark.parametrize("level", ["none", "runtime"])
def test_ragged_greedy_decoding_equals_torch(
    checkpoint: tuple[Path, Any], folders: dict[str, Path], level: str
) -> None:
    model = ort_model(folders["fp32"], level)
    assert model.spec.cache.style == "shared"
    cache = model.create_cache(batch_size=3, capacity=64)
    logits = [model.forward(IDS, cache, counts=COUNTS)[:, 0]]
    while len(logits) < 33:
        logits.append(model.forward(logits[-1].argmax(-1)[:, None], cache)[:, 0])
    assert cache.update_mode == "in_place"
    got = np.stack(logits, axis=1)
    for row, prompt in enumerate(PROMPTS):
        tokens, expected = torch_greedy(checkpoint[1], prompt, 33)
        np.testing.assert_allclose(got[row], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        assert got[row].argmax(-1).tolist() == tokens


@pytest.mark.parametrize("precision", ["fp32", "int4", "int4-tied"])
def test_greedy_tokens_equal_those_of_onnxruntime_genai(folders: dict[str, Path], precision: str) -> None:
    import onnxruntime_genai as og

    vendor = og.Model(str(folders[precision]))
    model = ort_model(folders[precision])
    for prompt in PROMPTS:
        parameters = og.GeneratorParams(vendor)
        parameters.set_search_options(max_length=len(prompt) + 32, do_sample=False)
        generator = og.Generator(vendor, parameters)
        generator.append_tokens(np.array([prompt], np.int32))
        cache = model.create_cache(capacity=64)
        ids = np.array([prompt])
        for _ in range(32):
            expected = np.asarray(generator.get_logits()).reshape(-1)
            actual = model.forward(ids, cache)[0, 0]
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
            generator.generate_next_token()
            ids = np.array([[int(generator.get_sequence(0)[-1])]])
            assert int(actual.argmax()) == ids[0, 0]


@pytest.mark.parametrize("precision", ["fp32", "int4", "int4-tied"])
def test_chunks_rewinding_and_idle_rows(folders: dict[str, Path], precision: str) -> None:
    model = ort_model(folders[precision])
    assert {Capability.RAGGED, Capability.CHUNKED_PREFILL, Capability.REWIND} <= model.capabilities
    whole = model.create_cache(batch_size=3, capacity=64)
    expected = model.forward(IDS, whole, counts=COUNTS, logits="all")
    pieces = model.create_cache(batch_size=3, capacity=64)
    model.forward(IDS[:, :2], pieces)
    model.forward(IDS[::-1, :4], pieces, counts=[4, 1, 2])
    pieces.rewind_to(2)
    second = model.forward(IDS[:, 2:], pieces, counts=COUNTS - 2, logits="all")
    for row, count in enumerate(COUNTS):
        np.testing.assert_allclose(second[row, : count - 2], expected[row, 2:count], atol=2e-2)
    assert pieces.lengths.tolist() == COUNTS.tolist()
    before = [pieces.read(1, row) for row in range(3)]
    model.forward([[1, 2], [3, 4], [5, 6]], pieces, counts=[0, 2, 1])
    for old, new in zip(before[0], pieces.read(1, 0), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("precision", ["fp32", "int4", "int4-tied"])
def test_only_the_asked_logits_are_computed(folders: dict[str, Path], precision: str) -> None:
    model = ort_model(folders[precision])
    assert any(note.startswith("select-logits: applied") for note in model.notes), model.notes
    some, every = (model.create_cache(batch_size=3, capacity=64) for _ in range(2))
    expected = model.forward(IDS, every, counts=COUNTS, logits="all")[np.arange(3), COUNTS - 1]
    np.testing.assert_allclose(model.forward(IDS, some, counts=COUNTS)[:, 0], expected, rtol=1e-5, atol=1e-5)
