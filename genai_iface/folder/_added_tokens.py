# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tokens that the files beside ``tokenizer.json`` add or change, by the rules of Transformers 5.

``added_tokens_decoder`` of tokenizer_config.json says it; only where it is absent do special_tokens_map.json and
added_tokens.json count. A token that the vocabulary lacks gets the next free id, whatever id stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import AddedToken

from genai_iface.errors import InvalidInputError
from genai_iface.folder._files import read_json

__all__ = ["configured_tokens", "named_tokens", "read_settings"]

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_DECODER = "added_tokens_decoder"

_END_OF_TEXT = "<|endoftext|>"
_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_QWEN = {"unk_token": _END_OF_TEXT, "eos_token": _END_OF_TEXT, "pad_token": _END_OF_TEXT}
_GPT = {"unk_token": _END_OF_TEXT, "bos_token": _END_OF_TEXT, "eos_token": _END_OF_TEXT}
# What a tokenizer class of a decoder takes for special where the configuration says nothing.
_OF_CLASS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "CodeGenTokenizer": _GPT,
        "CodeLlamaTokenizer": _LLAMA,
        "CohereTokenizer": {
            "unk_token": "<UNK>",
            "bos_token": "<BOS_TOKEN>",
            "eos_token": "<|END_OF_TURN_TOKEN|>",
            "pad_token": "<PAD>",
            "cls_token": "<CLS>",
            "sep_token": "<SEP>",
            "mask_token": "<MASK_TOKEN>",
        },
        "GPT2Tokenizer": _GPT,
        "GPTNeoXTokenizer": {**_GPT, "pad_token": "<|padding|>"},
        "GemmaTokenizer": {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        "LlamaTokenizer": _LLAMA,
        "Qwen2Tokenizer": _QWEN,
        "Qwen3_5Tokenizer": _QWEN,
    }
)


def read_settings(root: Path) -> dict[str, Any]:
    """tokenizer_config.json, with special_tokens_map.json over it where that still counts.

    Raises:
        InvalidInputError: A file is broken or leads out of the folder.
    """
    settings = dict(read_json(root, "tokenizer_config.json") or {})
    if _DECODER not in settings:
        settings |= read_json(root, "special_tokens_map.json") or {}
    return settings


def named_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration has under the name of a special token: the usual names, and those that a model adds.

    Returns:
        Texts, or objects with a text; or whatever else is there, which is an error once somebody asks for it.
    """
    named: dict[str, Any] = {name: settings[name] for name in _NAMED if settings.get(name) is not None}
    named |= {name: text for name, text in _defaults_of_class(settings).items() if name not in settings}
    own = {name: value for name, value in settings.items() if name.endswith("_token") and name not in _NAMED}
    for more in (own, *map(settings.get, _EXTRA)):
        if isinstance(more, Mapping):
            named |= {name: value for name, value in more.items() if _text_of(value)}
    return named


def configured_tokens(root: Path, settings: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> list[AddedToken]:
    """The tokens to add to a tokenizer, in order; flags of tokens that it has already are changed.

    Args:
        root: The folder.
        settings: From ``read_settings``.
        tokenizer: As ``tokenizer.json`` makes it.

    Raises:
        InvalidInputError: A file is broken.
    """
    known = {token.content: _state(token) for token in tokenizer.get_added_tokens_decoder().values()}
    named = {text: value for value in named_tokens(settings).values() if (text := _text_of(value))}
    listed = list(_from_decoder(settings) if _DECODER in settings else _from_added_tokens(root, settings, named))
    adding = {token.content: token for token in listed if known.get(token.content) != _state(token)}
    for text, token in adding.items():
        token.special |= text in named
    is_rebuilt = bool(_defaults_of_class(settings))
    defaults = {default for name, default in _defaults_of_class(settings).items() if name not in settings}
    for text, value in named.items():
        if text in adding:
            continue
        if text in known:
            # Such a class marks what it has a name for.
            if is_rebuilt and not known[text]["special"]:
                adding[text] = AddedToken(**{**known[text], "special": True})
        elif text not in defaults or tokenizer.token_to_id(text) is not None:
            adding[text] = _made(value)
    for value in _extra(settings):
        text = _text_of(value)
        if text and text not in adding and text not in known:
            adding[text] = _made(value)
    return list(adding.values())


def _defaults_of_class(settings: Mapping[str, Any]) -> Mapping[str, str]:
    return _OF_CLASS.get(str(settings.get("tokenizer_class")).removesuffix("Fast"), {})


def _from_decoder(settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    """The entries of ``added_tokens_decoder``, by id."""
    added, where = settings[_DECODER], f"{_DECODER} in tokenizer_config.json"
    remedy = f"Repair {where}: ids to objects with 'content' and flags."
    if not isinstance(added, Mapping):
        raise InvalidInputError(f"{_DECODER} is a {type(added).__name__}", remedy=remedy)
    entries: list[tuple[int, AddedToken]] = []
    for token_id, entry in added.items():
        is_id = token_id.isascii() and token_id.isdecimal() and len(token_id) < 20
        flags = {name: entry[name] for name in _FLAGS if name in entry} if isinstance(entry, Mapping) else {}
        if not is_id or not _content(entry) or not all(isinstance(flag, bool) for flag in flags.values()):
            raise InvalidInputError(f"{_DECODER} has {str(entry)[:40]} for {token_id[:20]!r}", remedy=remedy)
        entries.append((int(token_id), AddedToken(entry["content"], **flags)))
    return (token for _, token in sorted(entries, key=lambda pair: pair[0]))


def _from_added_tokens(root: Path, settings: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[AddedToken]:
    """The entries of added_tokens.json, by id; it has no flags."""
    special = {*named, *map(_text_of, _extra(settings))}
    added = read_json(root, "added_tokens.json") or {}
    for text, token_id in added.items():
        if not text or isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise InvalidInputError(
                f"added_tokens.json has {str(token_id)[:40]} for {text[:40]!r}",
                remedy="Repair it: texts to ids, or remove it.",
            )
    for text in sorted(added, key=lambda one: int(added[one])):
        yield AddedToken(text, normalized=text not in special, special=text in special)


def _extra(settings: Mapping[str, Any]) -> Sequence[Any]:
    """The list of special tokens that have no name."""
    for name in _EXTRA:
        value = settings.get(name)
        if value:
            return value if isinstance(value, list) else ()
    return ()


def _made(value: Any) -> AddedToken:
    """A special token from a text, or from an object with a content and flags."""
    flags = {name: value[name] is True for name in _FLAGS if name in value} if isinstance(value, Mapping) else {}
    return AddedToken(_text_of(value), **{**flags, "special": True})


def _text_of(value: Any) -> str:
    """The text of a special token; empty for what is none."""
    return value if isinstance(value, str) else _content(value)


def _content(value: Any) -> str:
    content = value.get("content") if isinstance(value, Mapping) else None
    return content if isinstance(content, str) else ""


def _state(token: AddedToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in ("content", *_FLAGS)}
