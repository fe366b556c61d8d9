# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One parse of a GGUF file for all who read it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf

__all__ = ["parsed_once"]


@contextmanager
def parsed_once() -> Iterator[None]:
    """Readers of one file, and maps of the names of one architecture, are one object while this lasts.

    The reader makes an array of every token of the vocabulary, which takes up to half a minute, and Transformers makes
    a reader each for the configuration, the weights and the tokenizer, and a map of names for every module.
    """
    plain, plain_names = gguf.GGUFReader, gguf.get_tensor_name_map
    held: dict[tuple[str, str], Any] = {}

    def reader(path: str | os.PathLike[str], mode: Any = "r") -> Any:
        key = os.path.realpath(path), mode
        if key not in held:
            held[key] = plain(path, mode)
        return held[key]

    gguf.GGUFReader = reader
    gguf.get_tensor_name_map = functools.cache(plain_names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = plain, plain_names
