# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of a GGUF file's header that know its form: counts, keys, types, values, tensors' names, shapes, offsets."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tools.robustness.mutate_graph import INTEGERS, TEXTS

__all__ = ["change_gguf", "fields_of"]

# struct's letter of each type of value; 8 is a text, 9 a list.
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_FLOATS = (0.0, -1.0, 1e30, float("inf"), float("nan"))


@dataclass(frozen=True, slots=True)
class Field:
    """Where something stands.

    Attributes:
        name: What it is, for people.
        start: Its first byte.
        letter: struct's letter, or "s" for a text with its length in front.
    """

    name: str
    start: int
    letter: str


class _Header:
    """Reads fields one after the other and remembers where each was."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._content, self._at = content, 4
        self.fields: list[Field] = []

    def number(self, name: str, letter: str) -> int:
        self.fields.append(Field(name, self._at, letter))
        (value,) = struct.unpack_from("<" + letter, self._content, self._at)
        self._at += struct.calcsize("<" + letter)
        return int(value) if letter not in "fd" else 0

    def text(self, name: str) -> str:
        self.fields.append(Field(name, self._at, "s"))
        (size,) = struct.unpack_from("<Q", self._content, self._at)
        start = self._at + 8
        self._at = start + size
        return self._content[start : self._at].decode("utf-8", "replace")

    def value(self, name: str, kind: int) -> None:
        if kind == _TEXT:
            self.text(name)
        elif kind == _LIST:
            inner = self.number(f"{name} type of items", "I")
            for _ in range(self.number(f"{name} count", "Q")):
                self.value(f"{name} item", inner)
        else:
            self.number(name, _LETTERS[kind])


def fields_of(content: bytes | bytearray) -> list[Field]:
    """Every field of a sound file's header.

    Args:
        content: Of the whole file.
    """
    header = _Header(content)
    header.number("version", "I")
    tensors = header.number("tensor count", "Q")
    for _ in range(header.number("key count", "Q")):
        name = header.text("key")
        header.value(name, header.number(f"{name} type", "I"))
    for _ in range(tensors):
        name = header.text("tensor name")
        for axis in range(header.number(f"{name} rank", "I")):
            header.number(f"{name} dimension {axis}", "Q")
        header.number(f"{name} dtype", "I")
        header.number(f"{name} offset", "Q")
    return header.fields


def change_gguf(path: Path, random: Random) -> str:
    """Changes one field of the header and says which.

    Args:
        path: A sound file.
        random: Decides everything.
    """
    content = bytearray(path.read_bytes())
    fields = fields_of(content)
    # Items of lists, a vocabulary's most often, are as many as all else.
    heads = [field for field in fields if not field.name.endswith(" item")]
    field = random.choice(heads if random.random() < 0.9 else fields)
    if field.letter == "s":
        (size,) = struct.unpack_from("<Q", content, field.start)
        if random.random() < 0.3:
            struct.pack_into("<Q", content, field.start, random.choice(INTEGERS) % 2**64)
        else:
            text = random.choice((*TEXTS, "llama", "gpt2", "blk.0.attn_q.weight")).encode()
            content[field.start : field.start + 8 + size] = struct.pack("<Q", len(text)) + text
    else:
        _set_number(content, field, random)
    path.write_bytes(content)
    return field.name


def _set_number(content: bytearray, field: Field, random: Random) -> None:
    if field.letter in "fd":
        struct.pack_into("<" + field.letter, content, field.start, random.choice(_FLOATS))
        return
    size = struct.calcsize("<" + field.letter)
    number = random.choice(INTEGERS) if random.random() < 0.6 else random.randrange(40)
    content[field.start : field.start + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
