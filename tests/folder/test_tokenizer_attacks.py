# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a stranger's tokenizer.json may do to a text, and to the process that reads it."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError
from genai_iface.folder import FolderTokenizer, open_folder
from tests.models import write_folder

BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}


def write(folder: Path, **parts: Any) -> Path:
    whole = {"version": "1.0", "added_tokens": [], "model": BPE, **parts}
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder


def replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def replace_all(pattern: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": by}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def template(pieces: list[dict[str, Any]], ids: int = 1) -> dict[str, Any]:
    special = {"a": {"id": "a", "ids": [0] * ids, "tokens": ["a"] * ids}}
    return {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": special}


SPECIAL, TEXT = {"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
GROWING: dict[str, list[dict[str, Any]]] = {
    "doubled 40 times": [replace("a", "aa")] * 40,
    "from one to the next": [replace(one, two * 2) for one, two in zip("abcdefgh", "bcdefghi", strict=True)],
    "long": [replace("a", "b" * 1000)],
    "long between characters": [replace("", "b" * 100)],
    "pairs": [replace("ab", "abababab")] * 6,
    "patterns": [replace_all("a+", "aaa")] * 6,
    "patterns that match nothing": [replace_all("x*", "ab")] * 6,
    "patterns that look ahead": [replace_all("(?=a)", "a")] * 20,
    "borders": [replace_all(r"\b", "a ")] * 10,
}


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
@pytest.mark.parametrize("steps", GROWING.values(), ids=GROWING)
def test_a_text_that_grows(tmp_path: Path, part: str, steps: list[dict[str, Any]]) -> None:
    # A Sequence in a Sequence is one too.
    inner = {"type": "Sequence", f"{part}s": steps}
    with pytest.raises(InvalidInputError, match=f"The {part} in tokenizer.json makes up to .* at most 64 are taken"):
        FolderTokenizer(write(tmp_path, **{part: {"type": "Sequence", f"{part}s": [inner]}}))


def test_a_beginning_that_is_long(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"normalizer in tokenizer\.json makes up to"):
        FolderTokenizer(write(tmp_path, normalizer={"type": "Prepend", "prepend": "a" * 10**6}))


@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581")],
        [replace_all(" {2,}", " "), {"type": "NFKC"}, {"type": "Lowercase"}],
        [replace("``", '"'), replace("''", '"'), replace_all(r"\s+", " ")],
        [replace(one, "...") for one in "\u2026\u22ef\u2025\u22ee"],
    ],
    ids=["beginning", "spaces", "quotes", "dots"],
)
def test_what_real_tokenizers_do_is_taken(tmp_path: Path, steps: list[dict[str, Any]]) -> None:
    tokenizer = FolderTokenizer(write(tmp_path, normalizer={"type": "Sequence", "normalizers": steps}))
    assert tokenizer.encode("ab") == [0, 1]


@pytest.mark.parametrize(
    "processor",
    [
        template([*[SPECIAL] * 5000, TEXT]),
        template([SPECIAL, TEXT], ids=5000),
        template([TEXT] * 3),
        {"type": "Sequence", "processors": [template([SPECIAL, TEXT], ids=500)] * 9},
    ],
    ids=["pieces", "ids", "the text again", "sequence"],
)
def test_ids_around_a_text(tmp_path: Path, processor: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"post-processor in tokenizer\.json adds"):
        FolderTokenizer(write(tmp_path, post_processor=processor))
    tokenizer = FolderTokenizer(write(tmp_path, post_processor=template([SPECIAL, TEXT, SPECIAL])))
    assert tokenizer.encode("b") == [0, 1, 0]


def test_models_that_look_far(tmp_path: Path) -> None:
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["a" * 20_000, -2.0]]}
    with pytest.raises(InvalidInputError, match=r"Unigram model in tokenizer\.json has 20000 characters"):
        FolderTokenizer(write(tmp_path, model=unigram))
    word_piece = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 10**9,
        "vocab": {"[UNK]": 0, "a": 1, "##b": 2},
    }
    with pytest.raises(InvalidInputError, match="max_input_chars_per_word=1000000000"):
        FolderTokenizer(write(tmp_path, model=word_piece))


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xff" + b"\0" * 64, b"\4\0\0\0" + b"\0" * 4 + b"x" * 5000 + b"\0"]
)
@pytest.mark.parametrize("spelled", ["plain", "escaped name", "escaped slash"])
def test_character_maps(tmp_path: Path, data: bytes, spelled: str) -> None:
    """The library reserves what the first four bytes say, and ends the process if it cannot have it."""
    charsmap = base64.b64encode(data).decode()
    write(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap})
    path = tmp_path / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    if spelled == "escaped name":
        text = text.replace("precompiled_charsmap", "\\u0070recompiled_ch\\u0061rsmap")
    elif spelled == "escaped slash":
        text = text.replace("/", "\\/")
    path.write_text(text, encoding="utf-8")
    assert json.loads(text)["normalizer"]["precompiled_charsmap"] == charsmap
    with pytest.raises(InvalidInputError, match=r"The character map in tokenizer\.json"):
        FolderTokenizer(tmp_path)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"pre_tokenizer": split("(a+)+$")}, "a" * 400 + "b"),
        ({"pre_tokenizer": split("(?:a|a)*[bc]$")}, "a" * 400 + "d"),
        ({"pre_tokenizer": split(r"(?:(a*)*\1)*$")}, "a" * 400 + "b"),
        ({"normalizer": replace_all("(a|b|ab)*c$", "x")}, "ab" * 200),
        ({"pre_tokenizer": split("(((a{1,1000}){1,1000}){1,1000}){1,1000}")}, "a" * 400),
        ({"pre_tokenizer": split("(" * 20_000 + "a" + ")" * 20_000)}, "a"),
        ({"pre_tokenizer": split(r"(?<x>\g<x>a|a)")}, "a" * 400),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "a"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 2**63}}, "a"),
        ({"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_token": "a"}}, "a"),
        ({"decoder": {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}}, "a"),
        ({"model": {**BPE, "vocab": {"a": 2**32 - 1, "b": 0}}}, "a"),
        ({"model": {**BPE, "vocab": {"a": 0, "b": 1, "ab": 0}, "merges": ["a b"]}}, "ab" * 400),
        ({"model": {"type": "Unigram", "unk_id": 10**15, "vocab": [["a", -1.0]]}}, "b"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_it_works_or_a_typed_error_comes_soon(tmp_path: Path, parts: dict[str, Any], text: str) -> None:
    """The library ends a match that goes back too often; its panics are errors here."""
    started = time.process_time()
    try:
        tokenizer = FolderTokenizer(write(tmp_path, **parts))
        tokenizer.encode(text)
        tokenizer.decode([0] * 20)
    except InvalidInputError as error:
        assert error.remedy and len(str(error)) < 1000
    assert time.process_time() - started < 10


def test_a_folder_opens_and_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", layers=1)
    write(folder, normalizer={"type": "Sequence", "normalizers": GROWING["doubled 40 times"]})
    opened = open_folder(folder)
    with pytest.raises(InvalidInputError, match="normalizer"):
        _ = opened.tokenizer
