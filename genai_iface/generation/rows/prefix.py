# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A prompt that has run, kept on disk: the model's cache file with the tokens beside the tensors.

The model itself checks that the file is its own (weights, dtype, shape of the cache). The tokens stand in
the same safetensors file, as one more entry of its metadata, so that the two cannot be mixed up.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from genai_iface._new_files import new_file, temporary_name
from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation._token_ids import as_ids
from genai_iface.generation.rows.cached_rows import CachedRows
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.protocols import Model, SupportsSave

__all__ = ["load_prefix", "open_with_prefix", "save_prefix"]

_METADATA, _TOKENS = "__metadata__", "tokens"
# A header beyond this is not a header; the format itself allows 100 MB.
_MAX_HEADER = 100_000_000


def save_prefix(model: Model[Any], token_ids: Sequence[int], path: str | PathLike[str], *, chunk_size: int) -> None:
    """Runs a prompt and writes its cache and its tokens.

    Raises:
        UnsupportedCapabilityError: The model cannot save caches.
        InvalidInputError: The prompt is empty, or there cannot be a file of that name, or something else than a
            regular file has it.
        OutputError: The file cannot be written.
    """
    saver = _saver(model)
    if not token_ids:
        raise InvalidInputError("An empty prompt has no cache", remedy="Pass at least one token.")
    sequence = TokenSequence()
    sequence.append_input(as_ids(list(token_ids), model.spec.vocab_size))
    # Names that cannot be written are refused before the prompt runs.
    with new_file(path) as finished:
        rows = CachedRows(model, 1, len(token_ids), chunk_size)
        cache_file = finished.with_name(temporary_name(Path(path).name))
        try:
            rows.run([sequence], [True], is_interrupted=lambda: False)
            saver.save_cache(rows.cache, cache_file)
            _add_tokens(cache_file, finished, list(map(int, token_ids)))
        finally:
            rows.close()
            cache_file.unlink(missing_ok=True)


def open_with_prefix(rows: CachedRows[Any], model: Model[Any], path: str | PathLike[str]) -> None:
    """Makes the caches of rows from a saved prompt, with which each row begins then.

    Raises:
        UnsupportedCapabilityError: The model cannot load caches, or not copy a row for several prompts.
        InvalidInputError: The file is missing or broken, or belongs to another model.
    """

    def make(num_rows: int) -> Any:
        if num_rows > 1 and Capability.REORDER not in model.capabilities:
            raise UnsupportedCapabilityError(
                "A saved prompt serves one prompt of this model only",
                capability=Capability.REORDER,
                remedy="Make a call for each.",
            )
        cache, rows.ran = load_prefix(model, path, capacity=rows.capacity)
        try:
            if num_rows > 1:
                cache.reorder([0] * num_rows)
        except BaseException:
            # What was loaded before the failure must not stay allocated.
            cache.close()
            raise
        return cache

    rows.open(make)


def load_prefix(model: Model[Any], path: str | PathLike[str], *, capacity: int) -> tuple[Any, list[int]]:
    """The cache, with room for ``capacity`` tokens, and its tokens.

    Raises:
        UnsupportedCapabilityError: The model cannot load caches.
        InvalidInputError: The file is missing or broken, or belongs to another model.
    """
    saver = _saver(model)
    tokens = _read_tokens(Path(path))
    cache = saver.load_cache(path, capacity=max(capacity, len(tokens)))
    if cache.lengths.tolist() != [len(tokens)]:
        cache.close()
        raise _broken(path, "its tokens do not fit its cache")
    return cache, tokens


def _saver(model: Model[Any]) -> SupportsSave[Any]:
    if Capability.SAVE not in model.capabilities or not isinstance(model, SupportsSave):
        raise UnsupportedCapabilityError(
            "This model cannot keep caches on disk", capability=Capability.SAVE, remedy="Run the prompt each time."
        )
    return model


def _add_tokens(source: Path, target: Path, tokens: list[int]) -> None:
    """Copies a safetensors file with one more entry of metadata."""
    with source.open("rb") as old, target.open("wb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        header[_METADATA] = {**header.get(_METADATA, {}), _TOKENS: json.dumps(tokens)}
        data = json.dumps(header).encode()
        # The format aligns the tensors to 8 bytes by blanks after the header.
        data += b" " * (-len(data) % 8)
        new.write(len(data).to_bytes(8, "little") + data)
        shutil.copyfileobj(old, new)


def _read_tokens(path: Path) -> list[int]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _MAX_HEADER else None
        tokens = json.loads(header[_METADATA][_TOKENS]) if isinstance(header, dict) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int for token in tokens):
        raise _broken(path, "it contains no tokens")
    return tokens


def _broken(path: str | PathLike[str], why: str) -> InvalidInputError:
    return InvalidInputError(
        f"{os.fspath(path)!r} is not a saved prompt: {why}", remedy="Give a file that save_prefix() wrote."
    )
