# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a GGUF file is whole: its header is walked, and what it promises is compared with the file's length."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType

from genai_iface.errors import InvalidInputError

__all__ = ["check_whole"]

_MAGIC = b"GGUF"
_OLDEST = 2
_STRING, _ARRAY = 8, 9
# Bytes of the values of each kind but strings and arrays.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT = b"general.alignment"
_MOST_AXES = 8
_DEEPEST = 4
_REMEDY = "Download it again, and compare its size with what the source says."


def check_whole(path: Path) -> None:
    """Refuses a file that ends before its last tensor does.

    Raises:
        InvalidInputError: It is no GGUF file, truncated, or its header is not understood. The message says which.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC[:size]:
            raise InvalidInputError(f"{path.name!r} is not a GGUF file", remedy="Give a file that begins with GGUF.")
        header = _Header(file, path.name, size)
        needed = header.end_of_data()
    if needed > size:
        raise InvalidInputError(
            f"{path.name!r} is truncated: it has {size} bytes, its tensors need {needed}", remedy=_REMEDY
        )


class _Header:
    """Reads the header of a file, front to back."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self._file, self._name, self._size = file, name, size

    def end_of_data(self) -> int:
        """The length that the file must have."""
        version = self._number("<I")
        if not _OLDEST <= version < 2**16:
            raise self._broken(f"its version is {version}; little-endian files from version {_OLDEST} on are read")
        tensors, entries = self._number("<Q"), self._number("<Q")
        alignment = GGUF_DEFAULT_ALIGNMENT
        for _ in range(entries):
            key, kind = self._string(), self._number("<I")
            if key == _ALIGNMENT and kind == 4:
                alignment = self._number("<I")
            else:
                self._skip_value(kind)
        if alignment <= 0 or alignment % 8:
            raise self._broken(f"its alignment is {alignment}")
        ends = [self._end_of_tensor() for _ in range(tensors)]
        begin = -(-self._file.tell() // alignment) * alignment
        return begin + max(ends) if ends else self._file.tell()

    def _end_of_tensor(self) -> int:
        """Where a tensor ends, from the begin of the data."""
        name, axes = self._string(), self._number("<I")
        if axes > _MOST_AXES:
            raise self._broken(f"the tensor {name[:60]!r} has {axes} axes")
        count = 1
        for _ in range(axes):
            count *= self._number("<Q")
        kind, offset = self._number("<I"), self._number("<Q")
        if kind not in {known.value for known in GGMLQuantizationType}:
            raise self._broken(f"the tensor {name[:60]!r} is of the unknown type {kind}")
        block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end: int = offset + -(-count // block) * nbytes
        return end

    def _skip_value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("<I"), self._number("<Q")
            if inner in _SIZES:
                self._skip(count * _SIZES[inner])
                return
            for _ in range(count):
                self._skip_value(inner, depth + 1)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise self._broken(f"an entry is of the unknown kind {kind}")

    def _string(self) -> bytes:
        return self._take(self._number("<Q"))

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, count: int) -> bytes:
        self._check(count)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._check(count)
        self._file.seek(count, 1)

    def _check(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise InvalidInputError(
                f"{self._name!r} is truncated: it has {self._size} bytes and ends within its header", remedy=_REMEDY
            )

    def _broken(self, what: str) -> InvalidInputError:
        return InvalidInputError(f"The header of {self._name!r} is not understood: {what}", remedy=_REMEDY)
