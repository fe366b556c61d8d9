# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One parse of a GGUF file for all who read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf

__all__ = ["parsed_once"]


@contextmanager
def parsed_once() -> Iterator[None]:
    """Readers of one file are one object while this lasts.

    The reader makes an array of every token of the vocabulary, which takes up to half a minute, and Transformers makes
    a reader each for the configuration, the weights and the tokenizer.
    """
    plain = gguf.GGUFReader
    held: dict[tuple[str, str], Any] = {}

    def reader(path: str | os.PathLike[str], mode: Any = "r") -> Any:
        key = os.path.realpath(path), mode
        if key not in held:
            held[key] = plain(path, mode)
        return held[key]

    gguf.GGUFReader = reader
    try:
        yield
    finally:
        gguf.GGUFReader = plain
