# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``tokenizer.ggml.pre`` of a GGUF file: how text is split before byte pairs are merged.

The file names a rule and does not carry it. The rules are llama.cpp's: expressions that are applied one after the
other, each to the pieces that the ones before have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Chain

__all__ = ["KNOWN", "Rule", "pre_tokenizer"]


class Rule(NamedTuple):
    """How text is split.

    Attributes:
        expressions: In their order.
        ignore_merges: A piece that is a token is not merged from its bytes.
    """

    expressions: tuple[str, ...]
    ignore_merges: bool = False


_SPACES = r"\s+(?!\S)|\s+"
_CONTRACTED = "'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_GPT2 = rf"{_CONTRACTED}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}"
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_LINES = "[\r\n]"
_SYMBOLS = r"[\p{P}\$\+<=>\^~\|`]+"
_WORDS_OF_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"


def _words(digits: str, marks: str = "") -> str:
    """The expression of Llama 3, with its number of digits, and what belongs to a word beside letters."""
    word = rf"[\p{{L}}{marks}]+" if marks else r"\p{L}+"
    return (
        rf"(?:{_ANY_CASE})|[^\r\n\p{{L}}\p{{N}}]?{word}|\p{{N}}{digits}"
        rf"| ?[^\s\p{{L}}{marks}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
    )


def _cased(digits: str, ending: str = "") -> str:
    """Words split where capitals follow small letters."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{before}[{_UPPER}]*[{_LOWER}]+{ending}|{before}[{_UPPER}]+[{_LOWER}]*{ending}|\p{{N}}{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
    )


_PLAIN = Rule((_GPT2,))
_DIGITS = Rule((r"\p{N}", _GPT2))
_LLAMA3 = Rule((_words("{1,3}"),), ignore_merges=True)
_QWEN2 = Rule((_words(""),))
_BLOOM = Rule((_WORDS_OF_BLOOM,))
_GPT4O = Rule((_cased("{1,3}", f"(?:{_ANY_CASE})?"),))
# Letters with two cases, and punctuation of Latin and East Asian scripts.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-"
    "\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = Rule(
    (
        r"\p{N}{1,3}",
        _KANA,
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        rf"|\s*[\r\n]+|{_SPACES}",
    )
)
_DEEPSEEK = Rule(
    (
        _LINES,
        rf"\s?[{_CASED_LETTERS}]+",
        rf"\s?[{_PUNCTUATION}]+",
        r"\s+$",
        _HAN,
        r"\p{N}+",
    )
)
_DEEPSEEK_CODER = Rule((_LINES, r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}"))
_FALCON = Rule((_SYMBOLS, _GPT2, "[0-9][0-9][0-9]"))

_NAMES: tuple[tuple[Rule, str], ...] = (
    (_PLAIN, "gpt-2 gpt2 phi-2 mpt olmo jais trillion granite-docling exaone4 roberta-bpe gigachat"),
    (_PLAIN, "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert"),
    (_DIGITS, "smollm starcoder refact command-r codeshell exaone minerva-7b jina-v2-code mellum2"),
    (_LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"),
    (_LLAMA3._replace(ignore_merges=False), "dbrx smaug-bpe glm4 chatglm-bpe"),
    (_QWEN2, "qwen2 stablelm2 deepseek-r1-qwen kormo hunyuan megrez grok-2"),
    (Rule((_cased(""),), ignore_merges=True), "tekken"),
    (_GPT4O, "gpt-4o llama4 kanana2"),
    (_DEEPSEEK, "deepseek-llm"),
    (_DEEPSEEK_CODER, "deepseek-coder"),
    (_DEEPSEEK3, "deepseek-v3 hunyuan-dense"),
    (_FALCON, "falcon"),
    (Rule((_SYMBOLS, _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")), "default"),
    (Rule((r"[^\n]+|[\n]+", _words(""))), "laguna"),
    (Rule((_words("", marks=r"\p{M}"),)), "qwen35"),
    (_BLOOM, "bloom gpt3-finnish poro-chat"),
    (Rule((_WORDS_OF_BLOOM, r"\p{N}")), "viking"),
)

KNOWN: dict[str, Rule] = {name: rule for rule, names in _NAMES for name in names.split()}
"""The rules that are known, by their name in the file."""


def pre_tokenizer(expressions: Sequence[str]) -> PreTokenizer:
    """A pre-tokenizer that splits by expressions, one after the other, and turns bytes into letters.

    Args:
        expressions: Of a rule; matches become pieces, and so does what lies between them.
    """
    splits: list[PreTokenizer] = [Split(Regex(expression), "isolated") for expression in expressions]
    return Chain([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])
