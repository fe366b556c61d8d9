# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A prompt that has run is kept on disk and used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline, UnsupportedCapabilityError
from tests.fakes import ByteTokenizer, FakeModel
from tests.marks import BACKENDS
from tests.models import write_folder

PREFIX = "a long instruction"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("style", ["scatter", "concat_nodes"])
def test_prompts_that_begin_with_it_run_only_the_rest(tmp_path: Path, backend: str, style: str) -> None:
    folder = write_folder(tmp_path / "model", style=style)
    prompts = [PREFIX + " one", PREFIX[:6] + "x", "no", PREFIX]
    with TextGenerationPipeline(folder, backend=backend) as pipe:
        pipe.save_prefix(PREFIX, tmp_path / "prefix.safetensors")
        plain = pipe.generate(prompts, max_new_tokens=8)
    # Another pipeline, as another process would have it.
    with TextGenerationPipeline(folder, backend=backend) as pipe:
        result = pipe.generate(prompts, max_new_tokens=8, prefix=tmp_path / "prefix.safetensors")
        assert result.token_ids == plain.token_ids
        assert result.perf_metrics.num_reused_tokens == len(PREFIX) + 6 + 0 + len(PREFIX) - 1
        assert plain.perf_metrics.num_reused_tokens == 0
        text = "".join(
            chunk.text for chunk in pipe.stream(prompts[0], max_new_tokens=8, prefix=tmp_path / "prefix.safetensors")
        )
        assert text == plain.texts[0]
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_the_file_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prefix.safetensors"
    with TextGenerationPipeline(write_folder(tmp_path / "one")) as pipe:
        pipe.save_prefix(PREFIX, file)
    with (
        TextGenerationPipeline(write_folder(tmp_path / "two", seed=5)) as pipe,
        pytest.raises(InvalidInputError, match="another model"),
    ):
        pipe.generate(PREFIX, max_new_tokens=2, prefix=file)


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b'\x10\0\0\0\0\0\0\0{"__metadata__":1']
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "prefix.safetensors"
    if content is not None:
        file.write_bytes(content)
    with (
        TextGenerationPipeline(write_folder(tmp_path / "model")) as pipe,
        pytest.raises(InvalidInputError, match="not a saved prompt"),
    ):
        pipe.generate(PREFIX, max_new_tokens=2, prefix=file)


def test_a_cache_file_without_tokens_is_refused(tmp_path: Path) -> None:
    with TextGenerationPipeline(write_folder(tmp_path / "model")) as pipe:
        cache = pipe.model.create_cache(capacity=8)
        pipe.model.save_cache(cache, tmp_path / "cache.safetensors")  # type: ignore[attr-defined]
        with pytest.raises(InvalidInputError, match="not a saved prompt"):
            pipe.generate(PREFIX, max_new_tokens=2, prefix=tmp_path / "cache.safetensors")
        with pytest.raises(InvalidInputError, match="cannot be written"):
            pipe.save_prefix(PREFIX, tmp_path / "missing" / "prefix.safetensors")
        with pytest.raises(UnsupportedCapabilityError, match="prefix"):
            pipe.generate(PREFIX, prefix=tmp_path / "cache.safetensors", num_beams=2)


def test_a_model_that_cannot_save_says_so(tmp_path: Path) -> None:
    pipe = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer())
    with pytest.raises(UnsupportedCapabilityError) as caught:
        pipe.save_prefix("a", tmp_path / "x")
    assert caught.value.capability == "save"
