# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Bounds what a stranger's ``tokenizer.json`` makes of a text: a short text must not become gigabytes of it.

The library runs in this process and ends it when it cannot get the memory that it asks for, so this is judged before.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from genai_iface.errors import InvalidInputError

__all__ = ["check_character_maps", "check_growth"]

_REMEDY = "Take tokenizer.json from the checkpoint that the model was exported from."

_MAX_GROWTH = 64.0  # characters of output for one of input
_MAX_ADDED = 4096  # ids around a text
_MAX_MAPPED = 1024  # bytes in place of one character
_MAX_TOKEN = 1024  # characters; Unigram looks for all of them at each position
_MAX_WORD = 1000  # characters; WordPiece tries each pair of ends

_MAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]*)"')
# JSON may write any character as an escape, those of a field's name too.
_ESCAPE = re.compile(rb"\\(?:u00([2-7][0-9a-fA-F])|(/))")
_ESCAPED_QUOTE, _ESCAPED_BACKSLASH = 0x22, 0x5C
# Without one of these a pattern matches nothing but characters.
_ZERO_WIDTH = re.compile(r"\(\?|\\[bBAzZGKyY]|[\^$]")


def check_character_maps(content: bytes) -> None:
    """Looks at the character maps in a ``tokenizer.json`` before the library does.

    A map begins with a size, and the library reserves that much whatever follows.

    Args:
        content: The whole file.

    Raises:
        InvalidInputError: A map is shorter than it says, or puts a long text in place of one character.
    """
    if b"charsmap" not in content and _ESCAPE.search(content) is None:
        return
    for found in _MAP.finditer(_ESCAPE.sub(_unescaped, content)):
        try:
            data = base64.b64decode(found[1])
        except binascii.Error:
            continue  # the library says so
        size, rest = int.from_bytes(data[:4], "little"), data[4:]
        if size > len(rest):
            raise InvalidInputError(
                f"The character map in tokenizer.json is to begin with {size} bytes, and there are {len(rest)}",
                remedy=_REMEDY,
            )
        longest = max(map(len, rest[size:].split(b"\0")))
        if longest > _MAX_MAPPED:
            raise InvalidInputError(
                f"The character map in tokenizer.json puts {longest} bytes in place of a character, at most "
                f"{_MAX_MAPPED} are taken",
                remedy=_REMEDY,
            )


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[2]:
        return b"/"
    code = int(found[1], 16)
    # These two would change what is text and what is not.
    return found[0] if code in (_ESCAPED_QUOTE, _ESCAPED_BACKSLASH) else bytes([code])


def check_growth(tokenizer: tokenizers.Tokenizer) -> None:
    """Judges how many characters, and ids, a tokenizer can make of one character, and what its model looks at.

    Args:
        tokenizer: As loaded.

    Raises:
        InvalidInputError: More than a sound tokenizer makes.
    """
    for part, what in ((tokenizer.normalizer, "normalizer"), (tokenizer.decoder, "decoder")):
        growth = _growth(list(_steps(_state(part))))
        if growth > _MAX_GROWTH:
            raise InvalidInputError(
                f"The {what} in tokenizer.json makes up to {growth:.3g} characters of one, at most {_MAX_GROWTH:.0f} "
                "are taken",
                remedy=_REMEDY,
            )
    added = sum(map(_added, _steps(_state(tokenizer.post_processor))))
    if added > _MAX_ADDED:
        raise InvalidInputError(
            f"The post-processor in tokenizer.json adds {added} ids, at most {_MAX_ADDED} are taken", remedy=_REMEDY
        )
    model = tokenizer.model
    longest = max(map(len, tokenizer.get_vocab()), default=0) if isinstance(model, tokenizers.models.Unigram) else 0
    if longest > _MAX_TOKEN:
        raise InvalidInputError(
            f"A token of the Unigram model in tokenizer.json has {longest} characters, at most {_MAX_TOKEN} are taken",
            remedy=_REMEDY,
        )
    if isinstance(model, tokenizers.models.WordPiece) and model.max_input_chars_per_word > _MAX_WORD:
        raise InvalidInputError(
            f"tokenizer.json has max_input_chars_per_word={model.max_input_chars_per_word}, at most {_MAX_WORD} is "
            "taken",
            remedy=_REMEDY,
        )


def _state(part: Any) -> Mapping[str, Any]:
    """A part of a tokenizer as in ``tokenizer.json``."""
    return {} if part is None else json.loads(part.__getstate__())


def _steps(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a part does, one after the other."""
    if part.get("type") == "Sequence":
        for inner in part.get("normalizers") or part.get("decoders") or part.get("processors") or ():
            yield from _steps(inner)
    elif part:
        yield part


def _growth(steps: list[Mapping[str, Any]]) -> float:
    """The most characters that come of one.

    From the last step to the first: what each character is worth at the end, such that a text never becomes longer
    than the sum over its characters. Changes by Unicode's own tables count as none.
    """
    worth: dict[str, float] = {}
    other = 1.0  # any character that is not in there
    for step in reversed(steps):
        kind = step.get("type")
        if kind == "Prepend":
            # A text that special tokens divide has a beginning for each part.
            more = _worth_of(step["prepend"], worth, other)
            worth, other = {key: value + more for key, value in worth.items()}, other + more
        elif kind == "Replace":
            new = _worth_of(step["content"], worth, other)
            text = step["pattern"].get("String")
            if text:
                for key in set(text):
                    worth[key] = max(worth.get(key, other), new / len(text))
            elif text is None and _takes_characters(step["pattern"]["Regex"]):
                worth, other = {key: max(value, new) for key, value in worth.items()}, max(other, new)
            else:
                # It matches between characters too.
                worth, other = {key: value + new for key, value in worth.items()}, other + new
        if max(other, *worth.values(), 0.0) > 2.0**60:
            break
    return max(other, *worth.values(), 0.0)


def _worth_of(text: str, worth: Mapping[str, float], other: float) -> float:
    return sum(worth.get(character, other) for character in text)


def _takes_characters(pattern: str) -> bool:
    """Whether a pattern surely matches no place between characters."""
    if _ZERO_WIDTH.search(pattern):
        return False
    probe = tokenizers.normalizers.Replace(tokenizers.Regex(pattern), "x")
    # A match of nothing would put something beside the character.
    return probe.normalize_str("\ue000") in ("\ue000", "x")


def _added(step: Mapping[str, Any]) -> int:
    """Ids that a post-processor's step adds to a text; a text that it repeats counts as too many."""
    tokens = step.get("special_tokens")
    added, repeated = 0, -1
    for piece in step.get("single") or ():
        if "Sequence" in piece:
            repeated += 1
        elif isinstance(tokens, Mapping):
            added += len(tokens.get(piece["SpecialToken"]["id"], {}).get("ids", ()))
    return added + max(repeated, 0) * _MAX_ADDED
