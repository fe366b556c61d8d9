# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``tokenizer.ggml.pre`` of a GGUF file: how text is split before byte pairs are merged.

The file names a rule and does not carry it. The rules are llama.cpp's: expressions that are applied one after the other,
each to the pieces that the ones before have left.
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
_HAN = "[一-龥ࠀ-一가-퟿]+"
_LINES = "[\r\n]"
_SYMBOLS = r"[\p{P}\$\+<=>\^~\|`]+"
_WORDS_OF_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"


def _words(digits: str) -> str:
    """The expression of Llama 3, with its number of digits."""
    return (
        rf"(?:{_ANY_CASE})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
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
_DEEPSEEK3 = Rule(
    (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        rf"|\s*[\r\n]+|{_SPACES}",
    )
)
_DEEPSEEK = Rule(
    (
        _LINES,
        r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
        r"ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
        r"𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
        r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
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
    (Rule((_words("").replace(_ANY_CASE, _ANY_CASE).replace(r"\p{L}+|", r"[\p{L}\p{M}]+|").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"),)), "qwen35"),
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
