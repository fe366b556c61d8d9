# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens that the files beside tokenizer.json add, and flags that they change; the same as in Transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from genai_iface import InvalidInputError
from genai_iface.folder import FolderTokenizer
from tests.model_files import BOS, EOS, write_tokenizer_files

PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
TEXTS = (
    "a<tool>b",
    "a <tool> \n b",
    "<tool><tool>",
    "x<tool>y <tool> z",
    "x <think> y<think>z",
    "<|eos|> \n h <|im_end|>  ",
    " <|bos|> <|pad|>",
    "<TOOL>",
    "",
)  # fmt: skip


def added(text: str, **flags: bool) -> dict[str, Any]:
    return {"content": text, **PLAIN, **flags}


# What stands in the files, by name.
FILES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a new token": {"tokenizer_config": {"added_tokens_decoder": {"261": added("<tool>")}}},
    "a gap before its id": {"tokenizer_config": {"added_tokens_decoder": {"290": added("<tool>")}}},
    "two tokens, not by name": {
        "tokenizer_config": {"added_tokens_decoder": {"262": added("<tool>"), "261": added("<think>", special=False)}}
    },
    "flags of a token that is there": {
        "tokenizer_config": {
            "added_tokens_decoder": {str(EOS): added("<|eos|>", rstrip=True), "260": added("<|im_end|>", lstrip=True)}
        }
    },
    "single words": {"tokenizer_config": {"added_tokens_decoder": {"261": added("<tool>", single_word=True)}}},
    "strips on both sides": {
        "tokenizer_config": {"added_tokens_decoder": {"261": added("<tool>", lstrip=True, rstrip=True)}}
    },
    "a token of the vocabulary": {"tokenizer_config": {"added_tokens_decoder": {"104": added("h")}}},
    "not special, but with a name": {
        "tokenizer_config": {"eos_token": "<tool>", "added_tokens_decoder": {"261": added("<tool>", special=False)}}
    },
    "a name that no file has a token for": {"tokenizer_config": {"bos_token": "<tool>"}},
    "names of a model's own": {"tokenizer_config": {"image_token": "<tool>", "added_tokens_decoder": {}}},
    "extra tokens": {"tokenizer_config": {"extra_special_tokens": ["<tool>", "<think>"]}},
    "extra tokens by name": {"tokenizer_config": {"extra_special_tokens": {"tool_token": "<tool>"}}},
    "additional tokens": {"tokenizer_config": {"additional_special_tokens": ["<think>", "<tool>"]}},
    "the map": {"special_tokens_map": {"eos_token": "<|im_end|>", "bos_token": added("<tool>")}},
    "the map over the configuration": {
        "tokenizer_config": {"eos_token": "<|eos|>"},
        "special_tokens_map": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<tool>"]},
    },
    "the map where it does not count": {
        "tokenizer_config": {"eos_token": "<|eos|>", "added_tokens_decoder": {}},
        "special_tokens_map": {"eos_token": "<tool>"},
    },
    "the old file": {"added_tokens": {"<think>": 262, "<tool>": 261}},
    "the old file and names": {
        "tokenizer_config": {"additional_special_tokens": ["<tool>"]},
        "added_tokens": {"<think>": 261, "<tool>": 262},
    },
    "the old file where it does not count": {
        "tokenizer_config": {"added_tokens_decoder": {}},
        "added_tokens": {"<tool>": 261},
    },
    "special tokens are text": {"tokenizer_config": {"split_special_tokens": True}},
}


def folder_with(path: Path, files: Mapping[str, Any]) -> Path:
    write_tokenizer_files(path)
    given = {"tokenizer_config": {}, **files}
    for name, values in given.items():
        more = {"tokenizer_class": "PreTrainedTokenizerFast"} if name == "tokenizer_config" else {}
        (path / f"{name}.json").write_text(json.dumps({**values, **more}))
    return path


@pytest.mark.parity
@pytest.mark.parametrize("name", FILES)
def test_the_ids_and_the_texts_of_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    folder = folder_with(tmp_path, FILES[name])
    ours, theirs = FolderTokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids, text
            for skips in (True, False):
                assert ours.decode(ids, skip_special_tokens=skips) == theirs.decode(ids, skip_special_tokens=skips)
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("a new token", "a<tool>", [97, 261]),
        # Whatever id stands beside it.
        ("a gap before its id", "a<tool>", [97, 261]),
        ("two tokens, not by name", "<tool><think>", [262, 261]),
        ("flags of a token that is there", "<|eos|> \n h <|im_end|>", [EOS, 104, 260]),
        ("single words", "x<tool>", [120, *b"<tool>"]),
        ("the old file", "<tool><think>", [261, 262]),
        ("the old file where it does not count", "<tool>", [*b"<tool>"]),
        ("special tokens are text", "<|bos|>", [*b"<|bos|>"]),
    ],
)
def test_tokens_that_other_files_know(name: str, text: str, ids: list[int], tmp_path: Path) -> None:
    tokenizer = FolderTokenizer(folder_with(tmp_path, FILES[name]))
    assert tokenizer.encode(text) == ids
    assert Tokenizer.from_str(tokenizer.to_json()).encode(text).ids == ids or name == "special tokens are text"


def test_which_token_begins_and_which_one_ends(tmp_path: Path) -> None:
    tokenizer = FolderTokenizer(folder_with(tmp_path, FILES["the map over the configuration"]))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, 260)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|bos|>", "eos_token": "<|eos|>"}')
    (tmp_path / "special_tokens_map.json").unlink()
    tokenizer = FolderTokenizer(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS, EOS)


@pytest.mark.parametrize("class_name", ["GemmaTokenizer", "GemmaTokenizerFast"])
def test_a_class_that_has_a_name_for_a_token_leaves_it_out_of_a_text(class_name: str, tmp_path: Path) -> None:
    write_tokenizer_files(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    saved.add_tokens([AddedToken("<mask>", special=False, normalized=False)])
    saved.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": class_name, "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = FolderTokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("a<mask>b")) == "ab"
    # What the vocabulary lacks is not added for the class's sake.
    assert tokenizer.vocab_size == 262
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "mask_token": None}))
    assert FolderTokenizer(tmp_path).decode(tokenizer.encode("a<mask>b")) == "a<mask>b"


@pytest.mark.parity
def test_the_tokens_of_classes_are_those_of_transformers() -> None:
    import inspect

    import transformers

    from genai_iface.folder._added_tokens import _OF_CLASS

    for name, tokens in _OF_CLASS.items():
        parameters = inspect.signature(getattr(transformers, name).__init__).parameters
        for token, text in tokens.items():
            assert parameters[token].default == text, (name, token)


@pytest.mark.parametrize(
    "values",
    [3, [], {"1": 3}, {"1": {"special": True}}, {"1": {"content": ""}}, {"1": added("x") | {"lstrip": "no"}},
     {"one": added("x")}, {"-1": added("x")}, {"9" * 5000: added("x")}],
    ids=lambda values: str(values)[:20],
)  # fmt: skip
def test_broken_added_tokens(tmp_path: Path, values: Any) -> None:
    with pytest.raises(InvalidInputError, match="added_tokens_decoder") as caught:
        FolderTokenizer(folder_with(tmp_path, {"tokenizer_config": {"added_tokens_decoder": values}}))
    assert caught.value.remedy


@pytest.mark.parametrize("values", [{"x": "1"}, {"x": -1}, {"x": True}, {"": 300}])
def test_a_broken_old_file(tmp_path: Path, values: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"added_tokens\.json"):
        FolderTokenizer(folder_with(tmp_path, {"added_tokens": values}))
