# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer with more ids than the logits have columns, and with fewer."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline
from genai_iface.folder import open_folder
from tests.models import write_folder


def without_config(folder: Path) -> Path:
    """So that only graph and tokenizer say how many ids there are."""
    (folder / "config.json").unlink()
    return folder


def test_a_tokenizer_with_more_ids_than_logits(tmp_path: Path) -> None:
    """An id that the logits lack is an error once somebody passes it, and not before."""
    folder = without_config(write_folder(tmp_path / "model", padded_vocab=-2))
    tokenizer = open_folder(folder).tokenizer
    assert tokenizer.vocab_size == 261
    assert tokenizer.encode("<|im_start|>") == [259]
    with TextGenerationPipeline(folder) as pipe:
        assert len(pipe.generate("hello", max_new_tokens=3, ignore_eos=True).token_ids[0]) == 3
        for prompt in ("hello<|im_start|>", [259], [{"role": "user", "content": "x"}]):
            for run in (pipe.generate, lambda prompt, **fields: [*pipe.stream(prompt, **fields)]):
                with pytest.raises(InvalidInputError, match=r"token id 259 is out of range, .* from 0 to 258"):
                    run(prompt, max_new_tokens=3)
        with pytest.raises(InvalidInputError, match="token id 259 is out of range"):
            pipe.perplexity("hello<|im_start|>")
        # What the tokenizer has can be decoded all the same.
        assert tokenizer.decode([259], skip_special_tokens=False) == "<|im_start|>"


def test_logits_with_more_columns_than_tokens(tmp_path: Path) -> None:
    folder = without_config(write_folder(tmp_path / "model", padded_vocab=9))
    with TextGenerationPipeline(folder) as pipe:
        result = pipe.generate("hello", max_new_tokens=3, logit_bias={265: 500.0})
        assert result.token_ids == [[265, 265, 265]]
        assert result.text == pipe.tokenizer.decode(result.token_ids[0]) == ""
        assert pipe.generate([104, 265], max_new_tokens=1, echo=True, logit_bias={105: 500.0}).text == "hi"
        with pytest.raises(InvalidInputError, match="legal are 0"):
            pipe.tokenizer.decode([300])
