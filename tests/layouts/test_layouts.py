# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Folders as found in the world: each opens with no flag and gives the tokens of the network in plain NumPy."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from genai_iface import GenAIError, load_model
from genai_iface.folder import open_folder
from tests.layouts.corpus import LAYOUTS, PROMPT, REFUSED, STEPS, Layout, Refused
from tests.layouts.decoder import greedy_tokens
from tests.model_files import EOS

BACKENDS = ["numpy", "ort"] if find_spec("onnxruntime") is not None else ["numpy"]


def tokens_of(source: Path, backend: str, *, ragged: bool = False) -> list[int]:
    """Greedy tokens; with a second, shorter row in the batch if ragged."""
    model = load_model(source, backend=backend)
    cache = model.create_cache(batch_size=2 if ragged else 1, capacity=len(PROMPT) + STEPS)
    ids, counts = np.array([PROMPT]), None
    if ragged:
        ids, counts = np.concatenate([ids, ids]), np.array([len(PROMPT), 2])
    made = []
    for _ in range(STEPS):
        chosen = model.forward(ids, cache, counts=counts)[:, -1].argmax(-1)
        made.append(int(chosen[0]))
        ids, counts = chosen[:, None], None
    model.close()
    return made


# Every fourth runs with the quick suite; .ci/run runs them all.
CASES = [
    pytest.param(layout, id=layout.name, marks=[pytest.mark.slow] if index % 12 else [])
    for index, layout in enumerate(LAYOUTS)
]


@pytest.mark.parametrize("layout", CASES)
def test_it_opens_and_gives_the_right_tokens(layout: Layout, tmp_path: Path) -> None:
    decoder = layout.decoder()
    source = layout.write(tmp_path, decoder)
    wanted, margin = greedy_tokens(decoder, PROMPT, STEPS)
    assert margin >= layout.margin
    opened = open_folder(source)
    assert EOS in opened.generation_config.eos_token_ids
    assert opened.context_length == 64
    assert opened.tokenizer.decode(PROMPT) == "Hello "
    for backend in BACKENDS:
        assert tokens_of(source, backend) == wanted, backend
        assert tokens_of(source, backend, ragged=True) == wanted, f"{backend}, ragged"
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.name)
def test_it_is_refused_by_name(refused: Refused, tmp_path: Path) -> None:
    refused.write(tmp_path)
    with pytest.raises(GenAIError, match=refused.message) as caught:
        open_folder(tmp_path)
    assert caught.value.remedy


def test_there_are_enough() -> None:
    names = [item.name for item in (*LAYOUTS, *REFUSED)]
    assert len(names) == len(set(names))
    assert len(names) >= 45
