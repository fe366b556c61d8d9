# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Caches on disk: a safetensors file that every backend reads and writes.

The file holds the valid tokens of each row only, as (Hkv, L, D) per row, layer and kind, so it knows
neither layouts nor capacities nor styles; the states of a row are there as they are. Its metadata names the model: the
fingerprint of the folder and the shape of the cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from genai_iface._new_files import new_file
from genai_iface.errors import InvalidInputError, OutputError
from genai_iface.folder.folder import ModelFolder
from genai_iface.types import CacheSpec, LayerCacheSpec

__all__ = ["SavedCache", "load_saved_cache", "save_cache_file"]

_FORMAT = "genai-iface cache 1"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}
_KINDS = ("key", "value")

ReadRow = Callable[[int, int], tuple[NDArray[Any], NDArray[Any]]]
"""``SupportsInspect.read``: (layer, row) to keys and values, each (Hkv, L, D)."""


class SavedCache:
    """An open cache file that belongs to the model.

    Attributes:
        lengths: int64 (B,), tokens of each row.
        spec: The shape of the cache.
    """

    def __init__(self, handle: Any, lengths: NDArray[np.int64], spec: CacheSpec) -> None:
        self.lengths = lengths
        self._handle = handle
        self.spec = spec

    def row(self, row: int, /) -> list[NDArray[Any]]:
        """Keys and values of one row, layer by layer, the key first; each (Hkv, L, D), oldest token first."""
        layers = range(len(self.spec.layers))
        return [self._handle.get_tensor(_name(row, layer, kind)) for layer in layers for kind in _KINDS]

    def states(self, row: int, /) -> list[NDArray[Any]]:
        """The states of one row, in the order of ``CacheSpec.states``."""
        return [self._handle.get_tensor(_state_name(row, state)) for state in range(len(self.spec.states))]


def save_cache_file(
    path: str | PathLike[str],
    /,
    *,
    folder: ModelFolder,
    lengths: NDArray[np.int64],
    read: ReadRow,
    states: Sequence[NDArray[Any]] = (),
) -> None:
    """Writes a cache under a temporary name beside ``path`` and then renames it.

    Args:
        path: The file; replaced if it is a regular file.
        folder: The model's folder.
        lengths: int64 (B,), the tokens of each row.
        read: Gives the content.
        states: (B, ...) each, in the order of ``CacheSpec.states``.

    Raises:
        InvalidInputError: There cannot be a file of that name, or something else than a regular file has it.
        OutputError: The file cannot be written.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for row in range(len(lengths)):
        for layer in range(len(folder.spec.cache.layers)):
            for kind, tokens in zip(_KINDS, read(layer, row), strict=True):
                tensors[_name(row, layer, kind)] = np.ascontiguousarray(tokens)
        for index, state in enumerate(states):
            part = np.ascontiguousarray(state[row])
            # Some runtimes hold bfloat16 as unsigned integers.
            is_narrow = folder.spec.cache.states[index].dtype == "bfloat16"
            tensors[_state_name(row, index)] = part.view(ml_dtypes.bfloat16) if is_narrow else part
    metadata = {"format": _FORMAT, "model": _key(folder), "lengths": json.dumps(lengths.tolist())}
    with new_file(path) as temporary:
        try:
            safetensors.numpy.save_file(tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            raise OutputError(
                f"The cache cannot be written to {os.fspath(path)!r}: {error}",
                remedy="Choose a writable folder with enough space.",
            ) from error


@contextmanager
def load_saved_cache(path: str | PathLike[str], /, *, folder: ModelFolder) -> Iterator[SavedCache]:
    """Opens a cache file and checks that it belongs to the model and is whole.

    Args:
        path: A file that ``save_cache_file`` wrote.
        folder: The model's folder.

    Raises:
        InvalidInputError: The file is missing or broken, or belongs to another model.
    """
    try:
        with safetensors.safe_open(os.fspath(path), framework="np") as handle:
            yield SavedCache(handle, _check(handle, path, folder), folder.spec.cache)
    except (OSError, safetensors.SafetensorError) as error:
        raise InvalidInputError(
            f"{os.fspath(path)!r} is not a cache file: {error}", remedy="Give a file that save_cache() wrote."
        ) from error


def _check(handle: Any, path: str | PathLike[str], folder: ModelFolder) -> NDArray[np.int64]:
    """The lengths; raises InvalidInputError unless everything is as the model's own cache would be."""
    metadata = handle.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise InvalidInputError(
            f"{os.fspath(path)!r} has the format {metadata.get('format')!r}, expected {_FORMAT!r}",
            remedy="Give a file that save_cache() wrote.",
        )
    if metadata.get("model") != _key(folder):
        raise InvalidInputError(
            f"The cache {os.fspath(path)!r} was made by another model than {str(folder.path)!r}",
            remedy="Load it with the folder that it was made with; weights, dtype and cache must be the same.",
        )
    try:
        lengths = json.loads(metadata.get("lengths", ""))
    except (ValueError, RecursionError):
        # Not JSON, a number of thousands of digits, or lists in lists.
        lengths = None
    if not isinstance(lengths, list) or not lengths or not all(type(n) is int and 0 <= n < 2**31 for n in lengths):
        raise InvalidInputError(
            f"{os.fspath(path)!r} contains no valid lengths", remedy="The file is damaged; make the cache again."
        )
    names = set(handle.keys())
    for row, length in enumerate(lengths):
        for name, expected in _expected(folder.spec.cache, row, length):
            part = handle.get_slice(name) if name in names else None
            found = None if part is None else (part.get_dtype(), tuple(part.get_shape()))
            if found != expected:
                raise InvalidInputError(
                    f"{name!r} in {os.fspath(path)!r} is {found}, expected {expected}",
                    remedy="The file is damaged; make the cache again.",
                )
    return np.array(lengths, np.int64)


def _expected(cache: CacheSpec, row: int, length: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Name, type and shape of each tensor of a row."""
    for layer, spec in enumerate(cache.layers):
        for kind in _KINDS:
            yield _name(row, layer, kind), (_DTYPES[spec.dtype], _shape(spec, kind, length))
    for index, state in enumerate(cache.states):
        yield _state_name(row, index), (_DTYPES[state.dtype], state.shape)


def _name(row: int, layer: int, kind: str) -> str:
    return f"row.{row}.layer.{layer}.{kind}"


def _state_name(row: int, state: int) -> str:
    return f"row.{row}.state.{state}"


def _shape(spec: LayerCacheSpec, kind: str, length: int) -> tuple[int, int, int]:
    kept = length
    if spec.mode == "circular" and spec.capacity is not None:
        kept = min(length, spec.capacity)
    return (spec.num_kv_heads, kept, spec.key_head_dim if kind == "key" else spec.value_head_dim)


def _key(folder: ModelFolder) -> str:
    """What must be equal for a cache to fit: the weights, and the cache's shape apart from its capacity."""
    layers = [
        [
            layer.num_kv_heads,
            layer.key_head_dim,
            layer.value_head_dim,
            layer.dtype,
            layer.mode,
            layer.capacity if layer.mode == "circular" else None,
        ]
        for layer in folder.spec.cache.layers
    ]
    states = [[state.kind, list(state.shape), state.dtype] for state in folder.spec.cache.states]
    return json.dumps({"fingerprint": folder.fingerprint, "layers": layers} | ({"states": states} if states else {}))
