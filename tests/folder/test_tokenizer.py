# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The folder's tokenizer: ids, special tokens, templates, and broken files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai_iface import InvalidInputError, Tokenizer, UnsupportedCapabilityError
from genai_iface.folder import FolderTokenizer
from tests.model_files import BOS, EOS, write_tokenizer_files

HELLO = [{"role": "user", "content": "hé"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer_files(tmp_path)
    return tmp_path


def configure(folder: Path, values: Mapping[str, Any]) -> FolderTokenizer:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return FolderTokenizer(folder)


def test_implements_the_protocol(folder: Path) -> None:
    tokenizer: Tokenizer = FolderTokenizer(folder)
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_id) == (261, BOS, EOS)


def test_text_to_ids_and_back(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder)
    assert tokenizer.encode("hé<|eos|>") == [104, 0xC3, 0xA9, EOS]
    assert tokenizer.decode([104, 0xC3, 0xA9, EOS]) == "hé"
    assert tokenizer.decode([104, EOS], skip_special_tokens=False) == "h<|eos|>"
    assert tokenizer.decode([]) == ""


def test_incomplete_bytes_become_replacement_characters(folder: Path) -> None:
    assert FolderTokenizer(folder).decode([104, 0xC3]) == "h\N{REPLACEMENT CHARACTER}"


@given(text=st.text())
def test_round_trip_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    if not folder.exists():
        folder.mkdir()
        write_tokenizer_files(folder)
    tokenizer = FolderTokenizer(folder)
    ids = tokenizer.encode(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("token", [-1, 261, 2**31, 2**63, 2**70])
def test_ids_out_of_range(folder: Path, token: int) -> None:
    with pytest.raises(InvalidInputError, match=f"token id {token} is out of range, legal are 0..260"):
        FolderTokenizer(folder).decode([104, token])


@pytest.mark.parametrize("ids", [["a"], [1.5], [[1]], [None]])
def test_ids_that_are_no_integers(folder: Path, ids: list[Any]) -> None:
    with pytest.raises(InvalidInputError, match="something else than integers"):
        FolderTokenizer(folder).decode(ids)


@pytest.mark.parametrize("text", [b"bytes", None, 3])
def test_only_text_is_encoded(folder: Path, text: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected str"):
        FolderTokenizer(folder).encode(text)


def test_lone_surrogates_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot encode"):
        FolderTokenizer(folder).encode("a\ud800")


def test_what_stands_around_a_text_is_what_tokenizer_json_puts_there(folder: Path) -> None:
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    # As Transformers 5, which passes these two fields over where there is a tokenizer.json.
    assert configure(folder, {**names, "add_bos_token": True, "add_eos_token": True}).encode("h") == [104]
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    saved["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [BOS], "tokens": ["<|bos|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    tokenizer = configure(folder, {**names, "add_bos_token": False})
    assert tokenizer.encode("h") == [BOS, 104]
    assert tokenizer.encode("h", add_special_tokens=False) == [104]


def test_ids_of_the_logits_that_no_token_has_decode_to_nothing(folder: Path) -> None:
    assert FolderTokenizer(folder, num_ids=300).decode([104, 299, 270, 105]) == "hi"
    with pytest.raises(InvalidInputError, match=r"token id 300 is out of range, legal are 0\.\.299"):
        FolderTokenizer(folder, num_ids=300).decode([300])
    for config in ({"vocab_size": 280}, {"text_config": {"vocab_size": 280}}, {"vocab_size": 3}):
        (folder / "config.json").write_text(json.dumps(config))
        tokenizer = FolderTokenizer(folder)
        assert tokenizer.vocab_size == 261
        assert tokenizer.decode([104, 260]) == "h"
        if config != {"vocab_size": 3}:
            assert tokenizer.decode([104, 279]) == "h"
    with pytest.raises(InvalidInputError, match=r"legal are 0\.\.260"):
        tokenizer.decode([261])


# Chat templates.


def test_template_file(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder)
    assert tokenizer.has_chat_template
    expected = "<|im_start|>user\nhé<|im_end|>\n"
    assert tokenizer.apply_chat_template(HELLO, add_generation_prompt=False) == expected
    assert tokenizer.apply_chat_template(HELLO) == expected + "<|im_start|>assistant\n"


def test_template_in_the_configuration(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    template = "{{ bos_token }}{{ messages[0].content }}{{ tools }}{{ documents }}{{ mood }}"
    tokenizer = configure(folder, {"chat_template": template, "bos_token": {"content": "<|bos|>"}})
    assert tokenizer.apply_chat_template(HELLO, mood="!") == "<|bos|>héNoneNone!"


def test_named_templates(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools|length }}"}]
    tokenizer = configure(folder, {"chat_template": templates})
    assert tokenizer.apply_chat_template(HELLO) == "plain"
    assert tokenizer.apply_chat_template(HELLO, tools=[]) == "tools 0"  # as Transformers
    assert tokenizer.apply_chat_template(HELLO, tools=[{"type": "function"}]) == "tools 1"


def test_named_templates_without_a_default(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    tokenizer = configure(folder, {"chat_template": [{"name": "rag", "template": "x"}]})
    with pytest.raises(InvalidInputError, match="templates rag, but none is named 'default'"):
        tokenizer.apply_chat_template(HELLO)


def test_no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    tokenizer = configure(folder, {})
    assert not tokenizer.has_chat_template
    with pytest.raises(UnsupportedCapabilityError, match="has no chat template"):
        tokenizer.apply_chat_template(HELLO)


# Broken files.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"version": "1.0"}',
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_broken_tokenizer(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InvalidInputError, match="is not a tokenizer") as caught:
        FolderTokenizer(folder)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "fields",
    [
        {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
        {
            "padding": {
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
    ],
    ids=["truncation", "padding"],
)
def test_saved_truncation_and_padding_do_not_count(folder: Path, fields: dict[str, Any]) -> None:
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | fields
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    assert FolderTokenizer(folder).encode("abcd") == [97, 98, 99, 100]


@pytest.mark.parametrize(
    "fields",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
    ids=["panic on reading", "panic on encoding", "missing token"],
)
def test_a_panic_in_rust_is_an_error_too(
    folder: Path, fields: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | fields
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(InvalidInputError, match="checkpoint"):
        FolderTokenizer(folder).encode("abcd")
    capfd.readouterr()  # Rust prints a panic by itself


def test_a_tokenizer_linked_out_of_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "tokenizer.json"
    (folder / "tokenizer.json").rename(elsewhere)
    (folder / "tokenizer.json").symlink_to(elsewhere)
    with pytest.raises(InvalidInputError, match="link that leaves"):
        FolderTokenizer(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token": 3}, "eos_token in tokenizer_config.json"),
        ({"eos_token": {"content": [1]}}, "eos_token in tokenizer_config.json"),
        ({"chat_template": 3}, "neither a text nor a list"),
        ({"chat_template": [3]}, "neither a text nor a list"),
        ({"chat_template": [{"name": "default"}]}, "neither a text nor a list"),
        ({"chat_template": "{% if %}"}, "broken at line 1"),
    ],
)
def test_broken_configuration_shows_on_use(folder: Path, values: dict[str, Any], message: str) -> None:
    (folder / "chat_template.jinja").unlink()
    tokenizer = configure(folder, values)
    with pytest.raises(InvalidInputError, match=message) as caught:
        (tokenizer.eos_token_id, tokenizer.apply_chat_template(HELLO))
    assert caught.value.remedy


def test_template_that_is_no_text(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        FolderTokenizer(folder).apply_chat_template(HELLO)
