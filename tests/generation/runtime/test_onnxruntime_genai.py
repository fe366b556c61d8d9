# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI, which owns its loop, on a folder of its own builder against our ONNX Runtime backend."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genai_iface import GenerationConfig, TextGenerationPipeline, UnsupportedCapabilityError, load_backend
from tests.model_files import write_tokenizer_files
from tests.ort_backend.test_genai_builder import PROMPTS
from tests.parity.genai_folders import build_genai, write_checkpoint

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint, _ = write_checkpoint("llama", tmp_path_factory.mktemp("checkpoint"))
    path = build_genai(checkpoint, tmp_path_factory.mktemp("built") / "fp32", "fp32")
    write_tokenizer_files(path)
    return path


def test_its_greedy_tokens_are_those_of_the_onnx_runtime_backend(folder: Path) -> None:
    prompts = [list(prompt) for prompt in PROMPTS]
    with TextGenerationPipeline(folder, backend="ort-genai") as pipe:
        got = pipe.generate(prompts, max_new_tokens=20)
        again = [chunk.token_ids for chunk in pipe.stream(prompts[0], max_new_tokens=20)]
        first = pipe.generate(prompts[0], max_new_tokens=1, logprobs=0)
    assert [token for tokens in again for token in tokens] == got.token_ids[0]
    assert first.logprobs is not None
    assert first.logprobs[0][0].logprob < 0
    with TextGenerationPipeline.from_parts(*_parts(folder)) as pipe:
        expected = pipe.generate(prompts, max_new_tokens=20)
    assert got.token_ids == expected.token_ids
    assert got.finish_reasons == expected.finish_reasons


def test_a_generator_goes_back_and_on(folder: Path) -> None:
    generator = load_backend("ort-genai").generator(folder, config=GenerationConfig(), capacity=64)
    prompt = list(PROMPTS[0])
    generator.append_tokens(prompt)
    for _ in range(6):
        generator.generate_next_token()
    tokens = generator.get_sequence(0)
    generator.rewind_to(len(prompt) - 2)
    generator.append_tokens(prompt[-2:])
    for _ in range(6):
        generator.generate_next_token()
    assert generator.get_sequence(0) == tokens


def test_what_it_does_not_do_is_refused(folder: Path) -> None:
    with TextGenerationPipeline(folder, backend="ort-genai") as pipe:
        for fields in ({"typical_p": 0.5}, {"num_beams": 2}, {"regex": "a"}):
            with pytest.raises(UnsupportedCapabilityError, match=next(iter(fields))):
                pipe.generate([5, 6], max_new_tokens=2, **fields)


def _parts(folder: Path) -> tuple[Any, Any]:
    from genai_iface.folder import FolderTokenizer
    from tests.ort_backend.cases import ort_model

    # The tokenizer has more ids than this model.
    return ort_model(folder), FolderTokenizer(folder)
