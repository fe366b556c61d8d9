# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI, which owns its loop, behind the interface: an adapter of 60 lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import (
    BackendInfo,
    Capability,
    Device,
    FinishReason,
    GenerationConfig,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
)
from tests.model_files import write_tokenizer_files
from tests.ort_backend.test_genai_builder import PROMPTS
from tests.parity.genai_folders import build_genai, write_checkpoint

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
]

# The pipeline above it ends the sequence at stop tokens too.
KNOWN = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "stop_token_ids", "eos_token_id"}


class OgGenerator:
    def __init__(self, model: Any, config: GenerationConfig, capacity: int | None) -> None:
        import onnxruntime_genai as og

        parameters = og.GeneratorParams(model)
        options: dict[str, Any] = {"do_sample": config.samples, "temperature": config.temperature or 1.0}
        options |= {"top_p": config.top_p, "repetition_penalty": config.repetition_penalty}
        options |= {"top_k": config.top_k} if config.top_k else {}
        options |= {"random_seed": config.seed % 2**31} if config.seed is not None else {}
        options |= {"max_length": capacity} if capacity is not None else {}
        parameters.set_search_options(**options)
        self.inner = og.Generator(model, parameters)
        self.capacity = capacity
        self.is_cancelled = False

    @property
    def finish_reasons(self) -> tuple[FinishReason | None, ...]:
        if self.is_cancelled:
            return ("cancelled",)
        is_full = self.capacity is not None and self.token_count() >= self.capacity
        return ("length" if is_full else "stop",) if self.inner.is_done() else (None,)

    def append_tokens(self, token_ids: Any, /) -> None:
        self.inner.append_tokens(np.array([token_ids], np.int32))

    def generate_next_token(self) -> None:
        self.inner.generate_next_token()

    def is_done(self) -> bool:
        return self.is_cancelled or self.inner.is_done()

    def get_next_tokens(self) -> list[int | None]:
        return [int(self.inner.get_next_tokens()[0])]

    def get_sequence(self, index: int, /) -> list[int]:
        return [int(token) for token in self.inner.get_sequence(index)]

    def token_count(self, index: int = 0, /) -> int:
        return int(self.inner.token_count())

    def rewind_to(self, length: int | Sequence[int], /) -> None:
        self.inner.rewind_to(length)

    def get_logits(self) -> Any:
        return np.asarray(self.inner.get_logits(), np.float32).reshape(1, -1)

    def set_logits(self, logits: Any, /) -> None:
        self.inner.set_logits(np.asarray(logits, np.float32)[None])

    def cancel(self) -> None:
        self.is_cancelled = True


class OgBackend:
    def info(self) -> BackendInfo:
        import onnxruntime_genai as og

        dtypes = frozenset({"float32"})
        capabilities = frozenset({str(Capability.GENERATOR)})
        return BackendInfo("og", "1", "onnxruntime-genai", og.__version__, frozenset({1}), capabilities, dtypes)  # type: ignore[arg-type]

    def devices(self) -> Sequence[Device]:
        return [Device("cpu", "cpu")]

    def load(self, folder: Any, /, *, device: str | None = None, options: Any = None) -> Any:
        raise UnsupportedCapabilityError("ONNX Runtime GenAI owns the loop")

    def generator(
        self,
        folder: Any,
        /,
        *,
        config: GenerationConfig,
        capacity: int | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> OgGenerator:
        neutral = GenerationConfig()
        for field in dataclasses.fields(config):
            if field.name not in KNOWN and getattr(config, field.name) != getattr(neutral, field.name):
                raise UnsupportedCapabilityError(f"{field.name} is not supported", remedy="Leave it alone.")
        return OgGenerator(_load(str(folder)), config, capacity)


@cache
def _load(folder: str) -> Any:
    import onnxruntime_genai as og

    return og.Model(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint, _ = write_checkpoint("llama", tmp_path_factory.mktemp("checkpoint"))
    path = build_genai(checkpoint, tmp_path_factory.mktemp("built") / "fp32", "fp32")
    write_tokenizer_files(path)
    return path


def test_its_greedy_tokens_are_those_of_the_onnx_runtime_backend(folder: Path) -> None:
    prompts = [list(prompt) for prompt in PROMPTS]
    with TextGenerationPipeline(folder, backend=OgBackend()) as pipe:
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
    generator = OgBackend().generator(folder, config=GenerationConfig(), capacity=64)
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
    with TextGenerationPipeline(folder, backend=OgBackend()) as pipe:
        for fields in ({"typical_p": 0.5}, {"num_beams": 2}, {"regex": "a"}):
            with pytest.raises(UnsupportedCapabilityError, match=next(iter(fields))):
                pipe.generate([5, 6], max_new_tokens=2, **fields)


def _parts(folder: Path) -> tuple[Any, Any]:
    from genai_iface.folder import FolderTokenizer
    from tests.ort_backend.cases import ort_model

    # The tokenizer has more ids than this model.
    return ort_model(folder), FolderTokenizer(folder)
